"""Full verification of a store: every file against its hash, every vector's key against its text."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jdistill.progress import Progress
from jdistill.store.files import load_json, open_array, sha256_of
from jdistill.store.reader import Store
from jdistill.store.teacher_writer import prompted_keys
from jdistill.store.vectors import MANIFEST_KEYS, SIDES, SideName, shard_name


def verify(store: Store) -> list[str]:
    """Problems of a store, one sentence each; empty if there are none.

    Checks that texts, rows and shards exist and match their sha256, that rows refer to existing texts, and that the key
    of each vector is the hash of its prompted text. Reads everything once.
    """
    folders = {store.path / "texts": store.manifest["texts"]["files"]}
    folders |= {store.path / "rows" / role: content["files"] for role, content in store.manifest["roles"].items()}
    files = {folder / f"{name}.npy": digest for folder, names in folders.items() for name, digest in names.items()}
    problems = _file_problems("verify texts", files)
    if problems:  # the remaining checks need intact texts
        return problems
    for role in store.roles:
        rows = store.rows(role)
        for part in (rows.documents, rows.queries):
            if part is not None and (part.min() < 0 or part.max() >= len(store.texts)):
                problems.append(f"rows of the role '{role}' refer to texts that do not exist")
    for name in store.teachers:
        problems += _teacher_problems(store, name)
    return problems


def _teacher_problems(store: Store, name: str) -> Iterator[str]:
    folder = store.path / "teachers" / name
    manifest = load_json(folder / "manifest.json", keys=MANIFEST_KEYS)
    if manifest["texts"] != store.texts.sha256:
        yield f"teacher '{name}': its vectors belong to a different set of texts"
        return
    suffixes = {"values": ".npy", "scales": ".scales.npy"}
    files = {
        folder / "shards" / f"{shard_name(shard)}{suffixes[part]}": digest
        for shard, content in enumerate(manifest["hashes"])
        for part, digest in content["files"].items()
    }
    yield from _file_problems(f"verify {name}", files)
    # These have no hash in the manifest. What they say is compared with the texts below.
    absent = [file for file in ("keys", "texts", "index.query", "index.document") if not _is_there(folder, file)]
    if absent:
        yield f"{folder}: missing or damaged: {', '.join(f'{file}.npy' for file in absent)}"
        return
    yield from _key_problems(store, folder)


def _key_problems(store: Store, folder: Path) -> Iterator[str]:
    manifest = load_json(folder / "manifest.json")
    keys, owners = open_array(folder / "keys.npy"), open_array(folder / "texts.npy")
    if len(keys) != manifest["rows"] or len(owners) != manifest["rows"]:
        yield f"{folder}: has {len(keys)} keys for {manifest['rows']} vectors"
        return
    if owners.min() < 0 or owners.max() >= len(store.texts):
        yield f"{folder}: texts.npy refers to texts that do not exist"
        return
    for side in SIDES:
        part = slice(0, manifest["query_rows"]) if side == "query" else slice(manifest["query_rows"], None)
        yield from _wrong_keys(store, folder, side, np.asarray(owners[part]), keys[part])
        index = open_array(folder / f"index.{side}.npy")
        if len(index) != len(store.texts) or index.max() >= len(keys):
            yield f"{folder}: index.{side}.npy does not match {len(store.texts)} texts and {len(keys)} vectors"
            continue
        asked = np.flatnonzero(index >= 0)
        yield from _wrong_keys(store, folder, side, asked, keys[index[asked]])


def _wrong_keys(store: Store, folder: Path, side: SideName, ids: np.ndarray, keys: np.ndarray) -> Iterator[str]:
    prompt = load_json(folder / "manifest.json")["description"]["prompts"][side]
    found = b"".join(prompted_keys(store.texts, ids, prompt))
    wrong = np.flatnonzero((np.frombuffer(found, np.uint8).reshape(-1, 16) != keys).any(axis=1))
    if len(wrong):
        yield f"{folder}: {len(wrong)} {side} vectors do not belong to their texts, the first is text {ids[wrong[0]]}"


def _file_problems(title: str, files: dict[Path, str]) -> list[str]:
    """The files that are missing or have another sha256."""
    problems = []
    with Progress(title, len(files), unit="files") as progress:
        for path, digest in files.items():
            if not path.is_file():
                problems.append(f"{path}: missing")
            elif sha256_of(path) != digest:
                problems.append(f"{path}: damaged (its sha256 differs from the manifest's)")
            progress.advance(1)
    return problems


def _is_there(folder: Path, file: str) -> bool:
    try:
        open_array(folder / f"{file}.npy")
    except ValueError:
        return False
    return True
