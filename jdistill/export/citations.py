"""Whom to thank: the paper behind each loss, as BibTeX for the model card."""

from collections.abc import Iterable

_ENTRIES = {
    "reimers2019": """@inproceedings{reimers2019sentencebert,
  title = {Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks},
  author = {Reimers, Nils and Gurevych, Iryna},
  booktitle = {EMNLP},
  year = {2019},
  url = {https://arxiv.org/abs/1908.10084}
}""",
    "reimers2020": """@inproceedings{reimers2020making,
  title = {Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation},
  author = {Reimers, Nils and Gurevych, Iryna},
  booktitle = {EMNLP},
  year = {2020},
  url = {https://arxiv.org/abs/2004.09813}
}""",
    "oord2018": """@misc{oord2018representation,
  title = {Representation Learning with Contrastive Predictive Coding},
  author = {van den Oord, Aaron and Li, Yazhe and Vinyals, Oriol},
  year = {2018},
  url = {https://arxiv.org/abs/1807.03748}
}""",
    "hinton2015": """@misc{hinton2015distilling,
  title = {Distilling the Knowledge in a Neural Network},
  author = {Hinton, Geoffrey and Vinyals, Oriol and Dean, Jeff},
  year = {2015},
  url = {https://arxiv.org/abs/1503.02531}
}""",
    "hofstaetter2020": """@misc{hofstaetter2020improving,
  title = {Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation},
  author = {Hofst{\\"a}tter, Sebastian and Althammer, Sophia and Schr{\\"o}der, Michael and Sertkan, Mete and
            Hanbury, Allan},
  year = {2020},
  url = {https://arxiv.org/abs/2010.02666}
}""",
    "zhang2024": """@misc{zhang2024jasper,
  title = {Jasper and Stella: distillation of SOTA embedding models},
  author = {Zhang, Dun and Li, Jiacheng and Zeng, Ziyang and Wang, Fulong},
  year = {2024},
  url = {https://arxiv.org/abs/2412.19048}
}""",
    "chen2024": """@misc{chen2024bge,
  title = {BGE M3-Embedding: Multi-Lingual, Multi-Functionality, Multi-Granularity Text Embeddings Through
           Self-Knowledge Distillation},
  author = {Chen, Jianlv and Xiao, Shitao and Zhang, Peitian and Luo, Kun and Lian, Defu and Liu, Zheng},
  year = {2024},
  url = {https://arxiv.org/abs/2402.03216}
}""",
    "hadsell2006": """@inproceedings{hadsell2006dimensionality,
  title = {Dimensionality Reduction by Learning an Invariant Mapping},
  author = {Hadsell, Raia and Chopra, Sumit and LeCun, Yann},
  booktitle = {CVPR},
  year = {2006},
  doi = {10.1109/CVPR.2006.100}
}""",
    "hermans2017": """@misc{hermans2017defense,
  title = {In Defense of the Triplet Loss for Person Re-Identification},
  author = {Hermans, Alexander and Beyer, Lucas and Leibe, Bastian},
  year = {2017},
  url = {https://arxiv.org/abs/1703.07737}
}""",
    "wieting2018": """@inproceedings{wieting2018paranmt,
  title = {ParaNMT-50M: Pushing the Limits of Paraphrastic Sentence Embeddings with Millions of Machine Translations},
  author = {Wieting, John and Gimpel, Kevin},
  booktitle = {ACL},
  year = {2018},
  doi = {10.18653/v1/P18-1042}
}""",
    "kusupati2022": """@inproceedings{kusupati2022matryoshka,
  title = {Matryoshka Representation Learning},
  author = {Kusupati, Aditya and Bhatt, Gantavya and Rege, Aniket and Wallingford, Matthew and others},
  booktitle = {NeurIPS},
  year = {2022},
  url = {https://arxiv.org/abs/2205.13147}
}""",
}

_LOSS_TO_ENTRIES = {
    "embed_mse": ("reimers2020",),
    "embed_kl": ("hinton2015",),
    "score_kl": ("hinton2015",),
    "score_margin_mse": ("hofstaetter2020",),
    "score_mse": ("zhang2024",),
    "score_rank": ("zhang2024",),
    "m3_kd": ("chen2024",),
    "info_nce": ("oord2018",),
    "teacher_info_nce": ("oord2018",),
    "contrastive": ("hadsell2006",),
    "online_contrastive": ("hadsell2006",),
    "batch_triplet": ("hermans2017",),
    "mega_batch_margin": ("wieting2018",),
    "matryoshka": ("kusupati2022",),
}
"""Kind of a loss -> its papers; a kind without a paper of its own is not listed."""


def citations(kinds: Iterable[str]) -> str:
    """BibTeX of Sentence-BERT and of the papers behind these kinds of loss, each once."""
    keys = ["reimers2019", *(key for kind in kinds for key in _LOSS_TO_ENTRIES.get(kind, ()))]
    return "\n\n".join(_ENTRIES[key] for key in dict.fromkeys(keys))
