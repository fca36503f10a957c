"""Small comparisons, for the tests of `compare`."""

from pipelines.compare.compare import compare
from pipelines.compare.plan import plan_from

PROBES = "shapes:30,split=probe,objects=1,size=32"
NANO_SETTINGS = {"model": "nano", "image_size": 16, "batch_size": 8, "epochs": 2, "blr": 0.05, "warmup_epochs": 0.5}


def run(content, out, **options):
    return compare(plan_from(content), out, device="cpu", workers=0, quiet=True, **options)
