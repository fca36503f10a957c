"""The readers that are fuzzed, one row each; their files come from the makers of the tests.

Where it can be told, a reader is also held to account: rows that go in come out or are recorded, and two readers of one
file agree.
"""

from __future__ import annotations

from pipelines.errors import UserError
from pipelines.sources.images import BadImage
from tools.fuzzing import image_targets as image
from tools.fuzzing import model_targets as model
from tools.fuzzing import record_targets as record
from tools.fuzzing import source_targets as source
from tools.fuzzing.worker import Target

_PIXELS = (
    *(
        b"IHDR",
        b"IDAT",
        b"PLTE",
        b"tRNS",
        b"iCCP",
        b"eXIf",
        b"acTL",
        b"fdAT",
        b"zTXt",
        b"\xff\xd8",
        b"\xff\xc0",
        b"\xff\xc2",
    ),
    *(
        b"\xff\xc4",
        b"\xff\xda",
        b"\xff\xdd",
        b"\xff\xe1Exif\0\0",
        b"\xff\xd9",
        b"RIFF",
        b"VP8 ",
        b"VP8L",
        b"VP8X",
        b"ANMF",
    ),
    *(
        b"II*\0",
        b"MM\0*",
        b"II+\0",
        b"GIF89a",
        b"\x21\xf9\x04",
        b"BM",
        b"ftypavif",
        b"jP  ",
        b"jp2c",
        b"\xff\x4f\xff\x51",
    ),
)
_TAR = (
    *(
        b"ustar\0",
        b"ustar  \0",
        b"x",
        b"g",
        b"L",
        b"K",
        b"S",
        b"1",
        b"5",
        b"7",
        b"\x80" + b"\xff" * 11,
        b"\x80\0\0\0\0\0\0\0\0\0\4\0",
    ),
    *(b"77777777777\0", b"-0000000001\0", b"20 path=a.png\n", b"16 size=9999999\n", b"30 GNU.sparse.realsize=99999\n"),
    *(b"24 GNU.sparse.major=1\n", b".png", b".txt", b".json", b".cls", b"\0" * 512, b"./", b"../"),
)
_TEXT = (
    b",",
    b"\t",
    b";",
    b"|",
    b'"',
    b'""',
    b"\n",
    b"\r\n",
    b"\r",
    b"a.png",
    b"file_name",
    b"caption",
    b"nan",
    b"\0",
    b"http://",
)
_JSON = (b"{", b"}", b"[", b"]", b":", b",", b"null", b"NaN", b'"a.png"', b'"caption"', b'"\\ud800"', b"1e999", b"\n")
_YAML = (
    *(
        b"&a ",
        b"*a",
        b"<<: ",
        b"!!python/object/apply:os.system ",
        b"!!set ",
        b"!!binary ",
        b"? ",
        b"- ",
        b": ",
        b"\n  ",
        b"---\n",
    ),
    *(
        b"...\n",
        b"|\n",
        b">\n",
        b"null",
        b"~",
        b"0x7f",
        b"0o7",
        b"1:20",
        b"2020-01-01",
        b".inf",
        b".nan",
        b"{",
        b"[",
        b"%YAML 9\n",
    ),
)
_PICKLE = (
    *(
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"cos\nsystem\n",
        b"R",
        b"}",
        b"(",
        b"t",
        b".",
        b"\x80\x02",
        b"b",
        b"Q",
        b"q\0",
        b"h\0",
    ),
    *(
        b"ctorch\nFloatStorage\n",
        b"ccollections\nOrderedDict\n",
        b"K\0",
        b"J\xff\xff\xff\x7f",
        b"\x8a\x08" + b"\xff" * 7 + b"\x7f",
    ),
)
_WEIGHTS = (
    b'"F32"',
    b'"BF16"',
    b'"F8_E4M3"',
    b'"dtype"',
    b'"shape"',
    b"[0,0]",
    b"[1048576,1048576]",
    b"[]",
    b'"data_offsets"',
)

_BAD, _USER, _VALUE = (BadImage,), (UserError,), (ValueError,)
_SOURCE, _RECORD = (UserError,), (UserError, ValueError)

TARGETS = (
    Target("images", image.images, image.read_image, _BAD, image.png_checksums, _PIXELS),
    Target("masks", image.images, image.read_mask, _BAD, image.png_checksums, _PIXELS),
    Target("videos", image.videos, image.read_video, (UserError, BadImage)),
    Target("tars", source.tars, source.read_tar, _SOURCE, source.tar_checksums, _TAR),
    Target("tables-csv", source.csvs, source.read_csv, _SOURCE, words=_TEXT),
    Target("tables-tsv", source.tsvs, source.read_tsv, _SOURCE, words=_TEXT),
    Target("tables-jsonl", source.jsonls, source.read_jsonl, _SOURCE, words=_JSON),
    Target("tables-parquet", source.parquets, source.read_parquet, _SOURCE),
    Target("captions", source.captions, source.read_captions, _SOURCE, words=_JSON),
    Target("manifests", record.manifests, record.read_manifests, _RECORD, words=_JSON),
    Target("maps", record.maps, record.read_maps, _VALUE),
    Target("rejects", record.rejects, record.read_rejects, _VALUE, words=_JSON),
    Target("runs-config", record.configs, record.read_config, _USER, words=_JSON),
    Target("runs-metrics", record.metrics, record.read_metrics, _USER, words=_JSON),
    Target("plans", record.plans, record.read_plans, _RECORD, words=_YAML),
    Target("checkpoints-pickle", model.pickles, model.read_pickle, _VALUE, model.zip_checksums, _PICKLE),
    Target(
        "checkpoints-safetensors",
        model.safetensors,
        model.read_safetensors,
        _VALUE,
        model.safetensors_lengths,
        _WEIGHTS,
    ),
    Target("checkpoints-config", model.model_configs, model.read_model_config, _VALUE, words=_JSON),
    Target("checkpoints-index", model.indices, model.read_index, _VALUE, words=_JSON),
    Target("checkpoints-state", model.states, model.read_state, _VALUE, model.zip_checksums, _PICKLE),
)
