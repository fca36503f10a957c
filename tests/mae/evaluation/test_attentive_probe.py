"""The attentive probe equals its equations, and finds what a mean hides."""

import pytest
import torch
from torch import nn

from mae.evaluation.attentive_probe import AttentiveSweep, attentive_pool, query_count
from mae.evaluation.linear_probe import LinearSweep

FACTS = {"batch_size": 64, "total_steps": 120, "warmup_steps": 12}


def plainly(tokens, queries, values):
    """The paper's order: values of all tokens first, split by query, then each query's weighted sum of its own."""
    found = []
    for image in tokens:  # [N, D]
        columns = (image @ values.T).chunk(len(queries), dim=1)
        weights = [torch.softmax(torch.stack([q @ x for x in image]) / len(q) ** 0.5, 0) for q in queries]
        found.append(
            torch.cat(
                [sum(w * v for w, v in zip(ws, vs, strict=True)) for ws, vs in zip(weights, columns, strict=True)]
            )
        )
    return torch.stack(found)


def test_queries_pool_as_in_the_paper():
    torch.manual_seed(0)
    tokens, queries, values = torch.randn(3, 5, 12), torch.randn(2, 4, 12), torch.randn(2, 12, 12)
    found = attentive_pool(tokens, queries, values)
    assert found.shape == (2, 3, 12)
    for number in range(2):
        torch.testing.assert_close(found[number], plainly(tokens, queries[number], values[number]))
    even = attentive_pool(tokens, torch.zeros(1, 4, 12), torch.eye(12)[None])
    torch.testing.assert_close(even[0], tokens.mean(1))  # queries that ask for nothing take the mean


def test_a_step_moves_each_head_as_if_it_were_alone():
    torch.manual_seed(1)
    tokens, labels = torch.randn(8, 5, 12), torch.arange(8) % 3
    rates = (1.0, 100.0)
    together = AttentiveSweep(12, 3, rates, queries=4, **FACTS)
    alone = [AttentiveSweep(12, 3, (rate,), queries=4, **FACTS) for rate in rates]
    for _ in range(4):
        losses = together.update(tokens, labels)
        one_by_one = [sweep.update_in_parts([(tokens, labels)], 8) for sweep in alone]
    torch.testing.assert_close(losses, torch.cat(one_by_one))
    expected = torch.cat([sweep.logits(tokens) for sweep in alone])
    torch.testing.assert_close(together.logits(tokens), expected)
    norm = nn.functional.batch_norm(
        plainly(tokens, alone[0].queries[0].detach(), alone[0].values[0].detach()),
        alone[0].norm.running_mean, alone[0].norm.running_var, eps=1e-6,
    )  # fmt: skip
    torch.testing.assert_close(expected[0], norm @ alone[0].weights[0].T.detach() + alone[0].biases[0].detach())


def test_a_state_goes_on_to_the_bit():
    torch.manual_seed(2)
    tokens, labels = torch.randn(8, 5, 12), torch.arange(8) % 3
    whole, first, second = (AttentiveSweep(12, 3, (1.0, 10.0), queries=4, seed=seed, **FACTS) for seed in (0, 0, 5))
    for _ in range(3):
        whole.update(tokens, labels)
    first.update(tokens, labels)
    second.load_state(first.state())
    for _ in range(2):
        second.update(tokens, labels)
    assert torch.equal(second.logits(tokens), whole.logits(tokens))


def planted(count, seed):
    """Of 16 patches one is marked and shows the class; each of the others shows a class at random."""
    generator = torch.Generator().manual_seed(seed)
    shown = torch.randint(4, (count, 16), generator=generator)
    marked = torch.randint(16, (count,), generator=generator)
    tokens = 0.3 * torch.randn(count, 16, 16, generator=generator)
    tokens[:, :, 1:5] += nn.functional.one_hot(shown, 4)
    tokens[torch.arange(count), marked, 0] += 3.0
    return tokens, shown[torch.arange(count), marked]


def test_it_finds_what_the_mean_of_the_patches_hides():
    (tokens, labels), (test, truth) = planted(512, 0), planted(512, 1)
    rates = (10.0, 30.0, 100.0)
    attentive, mean = AttentiveSweep(16, 4, rates, queries=4, **FACTS), LinearSweep(16, 4, rates, **FACTS)
    for step in range(FACTS["total_steps"]):
        rows = slice(step % 8 * 64, step % 8 * 64 + 64)
        attentive.update(tokens[rows], labels[rows])
        mean.update(tokens[rows].mean(1), labels[rows])
    found, hidden = (
        (sweep.logits(images).argmax(2) == truth).float().mean(1).max()
        for sweep, images in ((attentive, test), (mean, test.mean(1)))
    )
    assert found > 0.9
    assert hidden < 0.6


@pytest.mark.parametrize(("width", "count"), [(768, 32), (192, 32), (1280, 32), (100, 25), (7, 7), (37, 1)])
def test_the_width_is_shared_out_to_the_queries(width, count):
    assert query_count(width) == count
