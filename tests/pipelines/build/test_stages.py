from concurrent.futures import ThreadPoolExecutor

import pytest

from pipelines.build.stages import BLOCKED, DECODE, MODEL, READ, STARVED, TEXTS, WRITE, Stages


@pytest.mark.parametrize(
    ("seconds", "named"),
    [
        ({STARVED: 5, MODEL: 5, READ: 1, DECODE: 4}, "decoding and resizing"),
        ({STARVED: 5, MODEL: 5, READ: 4, DECODE: 1}, "reading the source"),
        ({STARVED: 1, MODEL: 9, READ: 40, DECODE: 40}, "the model"),
        ({STARVED: 1, MODEL: 5, BLOCKED: 4, WRITE: 9}, "writing"),
        ({TEXTS: 6, MODEL: 4}, "texts"),
        ({}, "the model"),
    ],
)
def test_the_bottleneck_is_what_the_model_waits_for(seconds, named):
    stages = Stages()
    stages.add(seconds)
    assert stages.bottleneck().startswith(named)


def test_starved_is_a_share_of_the_models_time_alone():
    stages = Stages()
    assert stages.starved == 0
    stages.add({STARVED: 1, MODEL: 2, TEXTS: 1, DECODE: 100})
    assert stages.starved == 0.25


def test_every_thread_counts():
    stages = Stages()

    def work(_):
        for _ in range(500):
            stages.add({DECODE: 1.0})

    with ThreadPoolExecutor(8) as executor:
        list(executor.map(work, range(8)))
    assert stages.seconds[DECODE] == 4000


def test_the_table_names_every_stage():
    stages = Stages()
    with stages.time(READ):
        pass
    stages.pairs = 10
    table = stages.table()
    assert {READ, DECODE, STARVED, TEXTS, MODEL, BLOCKED, WRITE, "the run", "bottleneck"} == set(table)
    assert "pairs/s" in table["the run"]
