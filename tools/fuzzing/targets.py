"""The readers that are fuzzed, one row each; their files come from the makers of the tests.

Where it can be told, a reader is also held to account: rows that go in come out or are recorded, and two readers of one
file agree.
"""

from __future__ import annotations

from pipelines.errors import UserError
from pipelines.sources.images import BadImage
from tools.fuzzing import image_targets as image
from tools.fuzzing import map_targets as given
from tools.fuzzing import model_targets as model
from tools.fuzzing import record_targets as record
from tools.fuzzing import source_targets as source
from tools.fuzzing.worker import Target

_PIXELS = (
    b"IHDR IDAT PLTE tRNS iCCP eXIf acTL fdAT zTXt RIFF VP8L VP8X ANMF II*\0 MM\0* II+\0 GIF89a BM ftypavif jp2c "
    b"\xff\xd8 \xff\xc0 \xff\xc2 \xff\xc4 \xff\xda \xff\xdd \xff\xe1Exif\0\0 \xff\xd9 \x21\xf9\x04 \xff\x4f\xff\x51"
).split(b" ")
_TAR = [
    *b"ustar\0 x g L K S 1 5 7 77777777777\0 -0000000001\0 path= .png .txt .json .cls ./ ../ \x80\xff\xff".split(b" "),
    *(b"ustar  \0", b"20 path=a.png\n", b"16 size=9999999\n", b"30 GNU.sparse.realsize=99999\n", b"\0" * 512),
]
_TEXT = b', \t ; | " "" \n \r\n \r a.png file_name caption nan \0 http://'.split(b" ")
_JSON = b'{ } [ ] : , null NaN "a.png" "caption" "\\ud800" 1e999 \n'.split(b" ")
_YAML = [
    *b"*a ... ~ null 0x7f 0o7 1:20 2020-01-01 .inf .nan { [ --- |\n >\n ...\n !!set".split(b" "),
    *(b"&a ", b"<<: *a", b"!!python/name:os.system ", b"!!binary ", b"? ", b"- ", b": ", b"\n  ", b"%YAML 9\n"),
]
_PICKLE = (
    b"ctorch._utils\n_rebuild_tensor_v2\n cos\nsystem\n ctorch\nFloatStorage\n ccollections\nOrderedDict\n R } ( t . "
    b"b Q \x80\x02 q\0 h\0 K\0 J\xff\xff\xff\x7f \x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f"
).split(b" ")
_WEIGHTS = b'"F32" "BF16" "F8_E4M3" "dtype" "shape" [0,0] [1048576,1048576] [] "data_offsets"'.split(b" ")

_ARRAYS = [*_PIXELS, *b"\x93NUMPY \x01\0 '<f4' '|O' '|b1' True PK\x03\x04 PK\x05\x06 a.npy".split(b" "), b"(9, 9)"]

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
    Target("manifests", record.manifests, record.read_manifests, _VALUE, words=_JSON),
    Target("manifests-prepared", record.prepared, record.read_prepared, _USER, words=_JSON),
    Target("maps", record.maps, record.read_maps, _VALUE),
    Target("maps-files", given.map_files, given.read_map_file, _BAD, image.png_checksums, _ARRAYS),
    Target("maps-salicon", given.salicons, given.read_salicon, _USER, words=_JSON),
    Target("maps-gaze", given.gazes, given.read_gaze, _USER, words=_TEXT),
    Target("maps-tables", given.heatmap_tables, given.read_heatmaps, _USER),
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
    Target("checkpoints-foreign", model.foreign, model.read_foreign, _VALUE, model.safetensors_lengths, _WEIGHTS),
    Target("checkpoints-config", model.model_configs, model.read_model_config, _VALUE, words=_JSON),
    Target("checkpoints-index", model.indices, model.read_index, _VALUE, words=_JSON),
    Target("checkpoints-state", model.states, model.read_state, _VALUE, model.zip_checksums, _PICKLE),
)
