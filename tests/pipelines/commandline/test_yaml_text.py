import resource
import time

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.commandline.yaml_text import read_yaml
from pipelines.compare.plan import read_plan
from pipelines.errors import UserError

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
PLAN = """source: shapes:64
saliency: maps
seeds: [0, 1]
baseline: random
pretrain: {epochs: 2, image_size: 32, salient_schedule: 0:0.5, blr: 1e-3, track: [wandb]}
evaluate: {source: shapes:32, protocol: [knn, occlusion], occlusion_shares: '0,0.5'}
arms:
  random: {}
  image: {salient_ratio: 0.25}
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "more than 100000 values"),
        ("a: &a [*a]", "more than 100000 values"),
        ("[" * 20000, "nested too deep"),
        ("[" * 20000 + "]" * 20000, "nested too deep"),
        ("a: !!int ''", "can't be read"),
        ("a: 2020-13-45", "can't be read"),
        ("a: !!python/object/apply:os.system ['touch owned']", "could not determine a constructor"),
        ("? [b]\n: 1", "unhashable key"),
        ("a: 1\na: 2", "'a' is there twice"),
        ("a: \x07", "not YAML"),
        (b"\xff\xfe\x00", "can't be read"),
        (b"a: " + b"x" * (1 << 20), "can't be read"),
    ],
)
def test_what_is_no_plain_yaml_is_one_line_at_once(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "plan.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=message) as caught:
        read_yaml(file)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 4500
    assert time.process_time() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB
    assert not (tmp_path / "owned").exists()


def test_anchors_and_merges_are_read(tmp_path):
    (tmp_path / "a.yaml").write_text("base: &base {x: 1}\nmore: {<<: *base, y: 2}\n")
    assert read_yaml(tmp_path / "a.yaml") == {"base": {"x": 1}, "more": {"x": 1, "y": 2}}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
    | st.sampled_from(["x0", "x epochs", "0x", ":", "0:0.5:1", "1e-3", "9" * 30, "nan", "-", ",", "random"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_plan_is_read_or_refused(tmp_path, data):
    """Whatever stands in the place of a value of a plan, and wherever a byte of it is another one."""
    plan = yaml.safe_load(PLAN)
    section = data.draw(st.sampled_from([*plan, None]))
    if section is None:
        text = bytearray(PLAN.encode())
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
        content = bytes(text)
    else:
        inside = plan[section]
        if isinstance(inside, dict) and data.draw(st.booleans()):
            inside[data.draw(st.sampled_from([*inside]))] = data.draw(VALUES)
        else:
            plan[section] = data.draw(VALUES)
        content = yaml.safe_dump(plan, allow_unicode=True).encode()
    (tmp_path / "plan.yaml").write_bytes(content)
    try:
        read = read_plan(tmp_path / "plan.yaml")
        for arm in read.arms:
            read.pretrain_options(arm, 0, tmp_path / "run")
        read.evaluate_options(0, tmp_path / "run")
    except (UserError, ValueError) as error:
        assert "\n" not in str(error)  # noqa: PT017
