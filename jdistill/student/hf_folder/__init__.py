"""A student's folder in the layout of sentence-transformers and transformers, read and written.

    modules.json                         class and folder of each module, in order    reader, writer
    config_sentence_transformers.json    prompts and similarity                       reader, writer
    config.json, model.safetensors,      the encoder, so that transformers loads      modules/transformer
      tokenizer.json, ...                the same folder
    0_StaticEmbedding/                   a table of token vectors instead             modules/static_embedding
    1_Pooling/                           modes such as mean                           modules/pooling
    2_ActivationPooling/, ...            poolings with parameters                     modules/parametric_pooling
    3_Dense/, 4_LayerNorm/, ...          the head                                     modules/dense and others
    jdistill_pooling.py                  torch classes of our own poolings            export/modules

Folders are read whichever release of sentence-transformers wrote them, and written as releases before 5.4 do, which all
releases can read. No code in a folder is ever run.
"""

from jdistill.student.hf_folder.hub import at_hand, locate
from jdistill.student.hf_folder.modules.parametric_pooling import check_exportable, module_files
from jdistill.student.hf_folder.modules.transformer import tokenizer_settings
from jdistill.student.hf_folder.reader import Pretrained, read_folder
from jdistill.student.hf_folder.writer import write_folder

__all__ = [
    "Pretrained",
    "at_hand",
    "check_exportable",
    "locate",
    "module_files",
    "read_folder",
    "tokenizer_settings",
    "write_folder",
]
