"""The papers that a model card may cite, by the identifiers used under `Source` in docstrings."""

from typing import NamedTuple


class Paper(NamedTuple):
    """A work, as cited in a model card."""

    key: str
    """Key of its BibTeX entry."""
    title: str
    authors: str
    year: int
    venue: str = ""
    """Conference or journal; empty for preprints and web pages."""
    preprint: str = ""
    """arXiv number of a paper that is identified by its DOI."""


SENTENCE_BERT = "arXiv:1908.10084"

PAPERS = {
    SENTENCE_BERT: Paper(
        "reimers2019sentencebert",
        "Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks",
        "Reimers, Nils and Gurevych, Iryna",
        2019,
        "EMNLP",
    ),
    "arXiv:1503.02531": Paper(
        "hinton2015distilling",
        "Distilling the Knowledge in a Neural Network",
        "Hinton, Geoffrey and Vinyals, Oriol and Dean, Jeff",
        2015,
    ),
    "arXiv:1503.03832": Paper(
        "schroff2015facenet",
        "FaceNet: A Unified Embedding for Face Recognition and Clustering",
        "Schroff, Florian and Kalenichenko, Dmitry and Philbin, James",
        2015,
        "CVPR",
    ),
    "arXiv:1703.07737": Paper(
        "hermans2017defense",
        "In Defense of the Triplet Loss for Person Re-Identification",
        "Hermans, Alexander and Beyer, Lucas and Leibe, Bastian",
        2017,
    ),
    "arXiv:1708.06320": Paper(
        "zhang2017spreadout",
        "Learning Spread-out Local Feature Descriptors",
        "Zhang, Xu and Yu, Felix X. and Kumar, Sanjiv and Chang, Shih-Fu",
        2017,
        "ICCV",
    ),
    "arXiv:1807.03748": Paper(
        "oord2018representation",
        "Representation Learning with Contrastive Predictive Coding",
        "van den Oord, Aaron and Li, Yazhe and Vinyals, Oriol",
        2018,
    ),
    "arXiv:1909.10351": Paper(
        "jiao2020tinybert",
        "TinyBERT: Distilling BERT for Natural Language Understanding",
        "Jiao, Xiaoqi and Yin, Yichun and Shang, Lifeng and Jiang, Xin and Chen, Xiao and Li, Linlin and Wang, Fang "
        "and Liu, Qun",
        2020,
        "Findings of EMNLP",
    ),
    "arXiv:1910.01108": Paper(
        "sanh2019distilbert",
        "DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter",
        "Sanh, Victor and Debut, Lysandre and Chaumond, Julien and Wolf, Thomas",
        2019,
    ),
    "arXiv:1910.10699": Paper(
        "tian2020contrastive",
        "Contrastive Representation Distillation",
        "Tian, Yonglong and Krishnan, Dilip and Isola, Phillip",
        2020,
        "ICLR",
    ),
    "arXiv:2004.05665": Paper(
        "paria2020minimizing",
        "Minimizing FLOPs to Learn Efficient Sparse Representations",
        "Paria, Biswajit and Yeh, Chih-Kuan and Yen, Ian E.H. and Xu, Ning and Ravikumar, Pradeep and "
        "P{\\'o}czos, Barnab{\\'a}s",
        2020,
        "ICLR",
    ),
    "arXiv:2004.09813": Paper(
        "reimers2020making",
        "Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation",
        "Reimers, Nils and Gurevych, Iryna",
        2020,
        "EMNLP",
    ),
    "arXiv:2010.02666": Paper(
        "hofstaetter2020improving",
        "Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation",
        'Hofst{\\"a}tter, Sebastian and Althammer, Sophia and Schr{\\"o}der, Michael and Sertkan, Mete and '
        "Hanbury, Allan",
        2020,
    ),
    "arXiv:2010.11386": Paper(
        "lin2020distilling",
        "Distilling Dense Representations for Ranking using Tightly-Coupled Teachers",
        "Lin, Sheng-Chieh and Yang, Jheng-Hong and Lin, Jimmy",
        2020,
    ),
    "arXiv:2101.06983": Paper(
        "gao2021scaling",
        "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
        "Gao, Luyu and Zhang, Yunyi and Han, Jiawei and Callan, Jamie",
        2021,
    ),
    "arXiv:2103.00020": Paper(
        "radford2021learning",
        "Learning Transferable Visual Models From Natural Language Supervision",
        "Radford, Alec and Kim, Jong Wook and Hallacy, Chris and Ramesh, Aditya and Goh, Gabriel and others",
        2021,
        "ICML",
    ),
    "arXiv:2106.09685": Paper(
        "hu2021lora",
        "LoRA: Low-Rank Adaptation of Large Language Models",
        "Hu, Edward J. and Shen, Yelong and Wallis, Phillip and Allen-Zhu, Zeyuan and Li, Yuanzhi and Wang, Shean and "
        "Wang, Lu and Chen, Weizhu",
        2021,
    ),
    "arXiv:2107.05720": Paper(
        "formal2021splade",
        "SPLADE: Sparse Lexical and Expansion Model for First Stage Ranking",
        "Formal, Thibault and Piwowarski, Benjamin and Clinchant, St{\\'e}phane",
        2021,
        "SIGIR",
    ),
    "arXiv:2109.10086": Paper(
        "formal2021spladev2",
        "SPLADE v2: Sparse Lexical and Expansion Model for Information Retrieval",
        "Formal, Thibault and Lassance, Carlos and Piwowarski, Benjamin and Clinchant, St{\\'e}phane",
        2021,
    ),
    "arXiv:2205.13147": Paper(
        "kusupati2022matryoshka",
        "Matryoshka Representation Learning",
        "Kusupati, Aditya and Bhatt, Gantavya and Rege, Aniket and Wallingford, Matthew and others",
        2022,
        "NeurIPS",
    ),
    "arXiv:2301.12005": Paper(
        "kim2023embeddistill",
        "EmbedDistill: A Geometric Knowledge Distillation for Information Retrieval",
        "Kim, Seungyeon and Rawat, Ankit Singh and Zaheer, Manzil and Jayasumana, Sadeep and Sadhanala, "
        "Veeranjaneyulu and Jitkrittum, Wittawat and Menon, Aditya Krishna and Fergus, Rob and Kumar, Sanjiv",
        2023,
    ),
    "arXiv:2303.15343": Paper(
        "zhai2023sigmoid",
        "Sigmoid Loss for Language Image Pre-Training",
        "Zhai, Xiaohua and Mustafa, Basil and Kolesnikov, Alexander and Beyer, Lucas",
        2023,
        "ICCV",
    ),
    "arXiv:2308.03281": Paper(
        "li2023towards",
        "Towards General Text Embeddings with Multi-stage Contrastive Learning",
        "Li, Zehan and Zhang, Xin and Zhang, Yanzhao and Long, Dingkun and Xie, Pengjun and Zhang, Meishan",
        2023,
    ),
    "arXiv:2402.03216": Paper(
        "chen2024bge",
        "BGE M3-Embedding: Multi-Lingual, Multi-Functionality, Multi-Granularity Text Embeddings Through "
        "Self-Knowledge Distillation",
        "Chen, Jianlv and Xiao, Shitao and Zhang, Peitian and Luo, Kun and Lian, Defu and Liu, Zheng",
        2024,
    ),
    "arXiv:2402.14776": Paper(
        "li2024matryoshka",
        "2D Matryoshka Sentence Embeddings",
        "Li, Xianming and Li, Zongxi and Li, Jing and Xie, Haoran and Li, Qing",
        2024,
    ),
    "arXiv:2402.16829": Paper(
        "solatorio2024gistembed",
        "GISTEmbed: Guided In-sample Selection of Training Negatives for Text Embedding Fine-tuning",
        "Solatorio, Aivin V.",
        2024,
    ),
    "arXiv:2405.17428": Paper(
        "lee2024nvembed",
        "NV-Embed: Improved Techniques for Training LLMs as Generalist Embedding Models",
        "Lee, Chankyu and Roy, Rajarshi and Xu, Mengyao and Raiman, Jonathan and Shoeybi, Mohammad and Catanzaro, "
        "Bryan and Ping, Wei",
        2024,
    ),
    "arXiv:2407.15831": Paper(
        "moreira2024nvretriever",
        "NV-Retriever: Improving text embedding models with effective hard-negative mining",
        "Moreira, Gabriel de Souza P. and Osmulski, Radek and Xu, Mengyao and Ak, Ronay and Schifferer, Benedikt and "
        "Oldridge, Even",
        2024,
    ),
    "arXiv:2412.19048": Paper(
        "zhang2024jasper",
        "Jasper and Stella: distillation of SOTA embedding models",
        "Zhang, Dun and Li, Jiacheng and Zeng, Ziyang and Wang, Fulong",
        2024,
    ),
    "arXiv:2503.04812": Paper(
        "lan2025llave",
        "LLaVE: Large Language and Vision Embedding Models with Hardness-Weighted Contrastive Learning",
        "Lan, Zhibin and Niu, Liqiang and Meng, Fandong and Zhou, Jie and Su, Jinsong",
        2025,
    ),
    "arXiv:2504.14839": Paper(
        "shen2025exploring",
        "Exploring $\\ell_0$ Sparsification for Inference-free Sparse Retrievers",
        "Shen, Xinjie and Geng, Zhichao and Yang, Yang",
        2025,
        "SIGIR",
    ),
    "arXiv:2509.20354": Paper(
        "schechtervera2025embeddinggemma",
        "EmbeddingGemma: Powerful and Lightweight Text Representations",
        "Schechter Vera, Henrique and Dua, Sahil and Zhang, Biao and others",
        2025,
    ),
    "doi:10.1109/CVPR.2006.100": Paper(
        "hadsell2006dimensionality",
        "Dimensionality Reduction by Learning an Invariant Mapping",
        "Hadsell, Raia and Chopra, Sumit and LeCun, Yann",
        2006,
        "CVPR",
    ),
    "doi:10.1109/TASLP.2024.3402087": Paper(
        "huang2024cosent",
        "CoSENT: Consistent Sentence Embedding via Similarity Ranking",
        "Huang, Xiang and Peng, Hao and Zou, Dongcheng and Liu, Zhiwei and Li, Jianxin and Liu, Kay and Wu, Jia and "
        "Su, Jianlin and Yu, Philip S.",
        2024,
        "IEEE/ACM Transactions on Audio, Speech, and Language Processing",
    ),
    "doi:10.18653/v1/2024.acl-long.101": Paper(
        "li2024aoe",
        "AoE: Angle-optimized Embeddings for Semantic Textual Similarity",
        "Li, Xianming and Li, Jing",
        2024,
        "ACL",
        "2309.12871",
    ),
    "doi:10.18653/v1/P18-1042": Paper(
        "wieting2018paranmt",
        "ParaNMT-50M: Pushing the Limits of Paraphrastic Sentence Embeddings with Millions of Machine Translations",
        "Wieting, John and Gimpel, Kevin",
        2018,
        "ACL",
    ),
    "https://kexue.fm/archives/8847": Paper(
        "su2022cosent",
        "CoSENT (1): A More Effective Sentence Embedding Scheme than Sentence-BERT",
        "Su, Jianlin",
        2022,
    ),
}
"""arXiv number, DOI or address -> the work."""


def bibtex(identifier: str) -> str:
    """The BibTeX entry of a work.

    Args:
      identifier: a key of `PAPERS`.
    """
    paper = PAPERS[identifier]
    fields = {"title": paper.title, "author": paper.authors, "booktitle": paper.venue, "year": str(paper.year)}
    if identifier.startswith("doi:"):
        fields["doi"] = identifier.removeprefix("doi:")
    number = identifier.removeprefix("arXiv:") if identifier.startswith("arXiv:") else paper.preprint
    if number:
        fields["url"] = f"https://arxiv.org/abs/{number}"
    elif identifier.startswith("https:"):
        fields["url"] = identifier
    kind = "inproceedings" if paper.venue else "misc"
    if "Transactions" in paper.venue:
        kind, fields["journal"] = "article", fields.pop("booktitle")
    lines = [f"  {name} = {{{value}}}" for name, value in fields.items() if value]
    return f"@{kind}{{{paper.key},\n" + ",\n".join(lines) + "\n}"
