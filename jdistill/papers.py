"""The papers that a model card cites, and their BibTeX entries.

A loss or a pooling names its papers by their `source`, as docstrings do. A paper that is not listed here is given as a
whole `Paper`.
"""

from collections.abc import Iterable
from typing import NamedTuple


class Paper(NamedTuple):
    """A work, as cited in a model card."""

    source: str
    """Identifier used under `Source` in docstrings: `arXiv:<number>`, `doi:<name>`, or an address."""
    key: str
    """Key of its BibTeX entry."""
    title: str
    authors: str
    year: int
    venue: str = ""
    """Conference or journal; empty for preprints and web pages."""
    preprint: str = ""
    """arXiv number of a paper whose source is its DOI."""


Papers = tuple[str | Paper, ...]
"""Works, each given whole, or as the `source` of one listed in `PAPERS`."""

SENTENCE_BERT = "arXiv:1908.10084"

KNOWN = (
    Paper(
        SENTENCE_BERT,
        "reimers2019sentencebert",
        "Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks",
        "Reimers, Nils and Gurevych, Iryna",
        2019,
        "EMNLP",
    ),
    Paper(
        "arXiv:1503.02531",
        "hinton2015distilling",
        "Distilling the Knowledge in a Neural Network",
        "Hinton, Geoffrey and Vinyals, Oriol and Dean, Jeff",
        2015,
    ),
    Paper(
        "arXiv:1503.03832",
        "schroff2015facenet",
        "FaceNet: A Unified Embedding for Face Recognition and Clustering",
        "Schroff, Florian and Kalenichenko, Dmitry and Philbin, James",
        2015,
        "CVPR",
    ),
    Paper(
        "arXiv:1703.07737",
        "hermans2017defense",
        "In Defense of the Triplet Loss for Person Re-Identification",
        "Hermans, Alexander and Beyer, Lucas and Leibe, Bastian",
        2017,
    ),
    Paper(
        "arXiv:1708.06320",
        "zhang2017spreadout",
        "Learning Spread-out Local Feature Descriptors",
        "Zhang, Xu and Yu, Felix X. and Kumar, Sanjiv and Chang, Shih-Fu",
        2017,
        "ICCV",
    ),
    Paper(
        "arXiv:1807.03748",
        "oord2018representation",
        "Representation Learning with Contrastive Predictive Coding",
        "van den Oord, Aaron and Li, Yazhe and Vinyals, Oriol",
        2018,
    ),
    Paper(
        "arXiv:1909.10351",
        "jiao2020tinybert",
        "TinyBERT: Distilling BERT for Natural Language Understanding",
        "Jiao, Xiaoqi and Yin, Yichun and Shang, Lifeng and Jiang, Xin and Chen, Xiao and Li, Linlin and Wang, Fang "
        "and Liu, Qun",
        2020,
        "Findings of EMNLP",
    ),
    Paper(
        "arXiv:1910.01108",
        "sanh2019distilbert",
        "DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter",
        "Sanh, Victor and Debut, Lysandre and Chaumond, Julien and Wolf, Thomas",
        2019,
    ),
    Paper(
        "arXiv:1910.10699",
        "tian2020contrastive",
        "Contrastive Representation Distillation",
        "Tian, Yonglong and Krishnan, Dilip and Isola, Phillip",
        2020,
        "ICLR",
    ),
    Paper(
        "arXiv:2004.05665",
        "paria2020minimizing",
        "Minimizing FLOPs to Learn Efficient Sparse Representations",
        "Paria, Biswajit and Yeh, Chih-Kuan and Yen, Ian E.H. and Xu, Ning and Ravikumar, Pradeep and "
        "P{\\'o}czos, Barnab{\\'a}s",
        2020,
        "ICLR",
    ),
    Paper(
        "arXiv:2004.09813",
        "reimers2020making",
        "Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation",
        "Reimers, Nils and Gurevych, Iryna",
        2020,
        "EMNLP",
    ),
    Paper(
        "arXiv:2010.02666",
        "hofstaetter2020improving",
        "Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation",
        'Hofst{\\"a}tter, Sebastian and Althammer, Sophia and Schr{\\"o}der, Michael and Sertkan, Mete and '
        "Hanbury, Allan",
        2020,
    ),
    Paper(
        "arXiv:2010.11386",
        "lin2020distilling",
        "Distilling Dense Representations for Ranking using Tightly-Coupled Teachers",
        "Lin, Sheng-Chieh and Yang, Jheng-Hong and Lin, Jimmy",
        2020,
    ),
    Paper(
        "arXiv:2101.06983",
        "gao2021scaling",
        "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
        "Gao, Luyu and Zhang, Yunyi and Han, Jiawei and Callan, Jamie",
        2021,
    ),
    Paper(
        "arXiv:2103.00020",
        "radford2021learning",
        "Learning Transferable Visual Models From Natural Language Supervision",
        "Radford, Alec and Kim, Jong Wook and Hallacy, Chris and Ramesh, Aditya and Goh, Gabriel and others",
        2021,
        "ICML",
    ),
    Paper(
        "arXiv:2106.09685",
        "hu2021lora",
        "LoRA: Low-Rank Adaptation of Large Language Models",
        "Hu, Edward J. and Shen, Yelong and Wallis, Phillip and Allen-Zhu, Zeyuan and Li, Yuanzhi and Wang, Shean and "
        "Wang, Lu and Chen, Weizhu",
        2021,
    ),
    Paper(
        "arXiv:2107.05720",
        "formal2021splade",
        "SPLADE: Sparse Lexical and Expansion Model for First Stage Ranking",
        "Formal, Thibault and Piwowarski, Benjamin and Clinchant, St{\\'e}phane",
        2021,
        "SIGIR",
    ),
    Paper(
        "arXiv:2109.10086",
        "formal2021spladev2",
        "SPLADE v2: Sparse Lexical and Expansion Model for Information Retrieval",
        "Formal, Thibault and Lassance, Carlos and Piwowarski, Benjamin and Clinchant, St{\\'e}phane",
        2021,
    ),
    Paper(
        "arXiv:2205.13147",
        "kusupati2022matryoshka",
        "Matryoshka Representation Learning",
        "Kusupati, Aditya and Bhatt, Gantavya and Rege, Aniket and Wallingford, Matthew and others",
        2022,
        "NeurIPS",
    ),
    Paper(
        "arXiv:2301.12005",
        "kim2023embeddistill",
        "EmbedDistill: A Geometric Knowledge Distillation for Information Retrieval",
        "Kim, Seungyeon and Rawat, Ankit Singh and Zaheer, Manzil and Jayasumana, Sadeep and Sadhanala, "
        "Veeranjaneyulu and Jitkrittum, Wittawat and Menon, Aditya Krishna and Fergus, Rob and Kumar, Sanjiv",
        2023,
    ),
    Paper(
        "arXiv:2303.15343",
        "zhai2023sigmoid",
        "Sigmoid Loss for Language Image Pre-Training",
        "Zhai, Xiaohua and Mustafa, Basil and Kolesnikov, Alexander and Beyer, Lucas",
        2023,
        "ICCV",
    ),
    Paper(
        "arXiv:2308.03281",
        "li2023towards",
        "Towards General Text Embeddings with Multi-stage Contrastive Learning",
        "Li, Zehan and Zhang, Xin and Zhang, Yanzhao and Long, Dingkun and Xie, Pengjun and Zhang, Meishan",
        2023,
    ),
    Paper(
        "arXiv:2402.03216",
        "chen2024bge",
        "BGE M3-Embedding: Multi-Lingual, Multi-Functionality, Multi-Granularity Text Embeddings Through "
        "Self-Knowledge Distillation",
        "Chen, Jianlv and Xiao, Shitao and Zhang, Peitian and Luo, Kun and Lian, Defu and Liu, Zheng",
        2024,
    ),
    Paper(
        "arXiv:2402.14776",
        "li2024matryoshka",
        "2D Matryoshka Sentence Embeddings",
        "Li, Xianming and Li, Zongxi and Li, Jing and Xie, Haoran and Li, Qing",
        2024,
    ),
    Paper(
        "arXiv:2402.16829",
        "solatorio2024gistembed",
        "GISTEmbed: Guided In-sample Selection of Training Negatives for Text Embedding Fine-tuning",
        "Solatorio, Aivin V.",
        2024,
    ),
    Paper(
        "arXiv:2405.17428",
        "lee2024nvembed",
        "NV-Embed: Improved Techniques for Training LLMs as Generalist Embedding Models",
        "Lee, Chankyu and Roy, Rajarshi and Xu, Mengyao and Raiman, Jonathan and Shoeybi, Mohammad and Catanzaro, "
        "Bryan and Ping, Wei",
        2024,
    ),
    Paper(
        "arXiv:2407.15831",
        "moreira2024nvretriever",
        "NV-Retriever: Improving text embedding models with effective hard-negative mining",
        "Moreira, Gabriel de Souza P. and Osmulski, Radek and Xu, Mengyao and Ak, Ronay and Schifferer, Benedikt and "
        "Oldridge, Even",
        2024,
    ),
    Paper(
        "arXiv:2412.19048",
        "zhang2024jasper",
        "Jasper and Stella: distillation of SOTA embedding models",
        "Zhang, Dun and Li, Jiacheng and Zeng, Ziyang and Wang, Fulong",
        2024,
    ),
    Paper(
        "arXiv:2503.04812",
        "lan2025llave",
        "LLaVE: Large Language and Vision Embedding Models with Hardness-Weighted Contrastive Learning",
        "Lan, Zhibin and Niu, Liqiang and Meng, Fandong and Zhou, Jie and Su, Jinsong",
        2025,
    ),
    Paper(
        "arXiv:2504.14839",
        "shen2025exploring",
        "Exploring $\\ell_0$ Sparsification for Inference-free Sparse Retrievers",
        "Shen, Xinjie and Geng, Zhichao and Yang, Yang",
        2025,
        "SIGIR",
    ),
    Paper(
        "arXiv:2509.20354",
        "schechtervera2025embeddinggemma",
        "EmbeddingGemma: Powerful and Lightweight Text Representations",
        "Schechter Vera, Henrique and Dua, Sahil and Zhang, Biao and others",
        2025,
    ),
    Paper(
        "doi:10.1109/CVPR.2006.100",
        "hadsell2006dimensionality",
        "Dimensionality Reduction by Learning an Invariant Mapping",
        "Hadsell, Raia and Chopra, Sumit and LeCun, Yann",
        2006,
        "CVPR",
    ),
    Paper(
        "doi:10.1109/TASLP.2024.3402087",
        "huang2024cosent",
        "CoSENT: Consistent Sentence Embedding via Similarity Ranking",
        "Huang, Xiang and Peng, Hao and Zou, Dongcheng and Liu, Zhiwei and Li, Jianxin and Liu, Kay and Wu, Jia and "
        "Su, Jianlin and Yu, Philip S.",
        2024,
        "IEEE/ACM Transactions on Audio, Speech, and Language Processing",
    ),
    Paper(
        "doi:10.18653/v1/2024.acl-long.101",
        "li2024aoe",
        "AoE: Angle-optimized Embeddings for Semantic Textual Similarity",
        "Li, Xianming and Li, Jing",
        2024,
        "ACL",
        "2309.12871",
    ),
    Paper(
        "doi:10.18653/v1/P18-1042",
        "wieting2018paranmt",
        "ParaNMT-50M: Pushing the Limits of Paraphrastic Sentence Embeddings with Millions of Machine Translations",
        "Wieting, John and Gimpel, Kevin",
        2018,
        "ACL",
    ),
    Paper(
        "https://kexue.fm/archives/8847",
        "su2022cosent",
        "CoSENT (1): A More Effective Sentence Embedding Scheme than Sentence-BERT",
        "Su, Jianlin",
        2022,
    ),
)

PAPERS = {paper.source: paper for paper in KNOWN}
"""Source -> the work."""


def citations(papers: Iterable[str | Paper]) -> str:
    """BibTeX of Sentence-BERT, the method of every student, and of these works, each once, in order."""
    works = [paper if isinstance(paper, Paper) else PAPERS[paper] for paper in (SENTENCE_BERT, *papers)]
    return "\n\n".join(bibtex(paper) for paper in dict.fromkeys(works))


def bibtex(paper: Paper) -> str:
    """The BibTeX entry of a work."""
    fields = {"title": paper.title, "author": paper.authors, "booktitle": paper.venue, "year": str(paper.year)}
    if paper.source.startswith("doi:"):
        fields["doi"] = paper.source.removeprefix("doi:")
    number = paper.source.removeprefix("arXiv:") if paper.source.startswith("arXiv:") else paper.preprint
    if number:
        fields["url"] = f"https://arxiv.org/abs/{number}"
    elif paper.source.startswith("https:"):
        fields["url"] = paper.source
    kind = "inproceedings" if paper.venue else "misc"
    if "Transactions" in paper.venue:
        kind, fields["journal"] = "article", fields.pop("booktitle")
    lines = [f"  {name} = {{{value}}}" for name, value in fields.items() if value]
    return f"@{kind}{{{paper.key},\n" + ",\n".join(lines) + "\n}"
