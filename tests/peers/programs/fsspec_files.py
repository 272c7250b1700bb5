"""fsspec's SFTPFileSystem: files and folders, by several file systems that are not cached."""

import os

import fsspec
from where import HOST, KEY, PORT, SCRATCH, USER, in_threads, raised, report

BASE = os.path.join(SCRATCH, "fsspec")


def filesystem():
    """Open one of its own, as each task of a scheduler does."""
    return fsspec.filesystem(
        "sftp", host=HOST, port=PORT, username=USER, key_filename=KEY, skip_instance_cache=True
    )


def work(number):
    """Use what a file system has."""
    files = filesystem()
    folder = f"{BASE}/{number}"
    files.makedirs(f"{folder}/a/b")
    files.pipe(f"{folder}/a/one", b"x" * 100_000)
    with files.open(f"{folder}/a/b/two", "wb") as file:
        file.write(b"first\n")
        file.write(b"second\n")
    with files.open(f"{folder}/a/b/two", "rb") as file:
        file.seek(6)
        second = file.read()
    files.mv(f"{folder}/a/one", f"{folder}/a/moved")
    files.put(os.path.join(folder, "a/b/two"), f"{folder}/put")
    files.get(f"{folder}/put", os.path.join(folder, "got"))
    found = sorted(path[len(folder) :] for path in files.find(folder))
    size = files.info(f"{folder}/a/moved")["size"]
    missing = raised(lambda: files.cat(f"{folder}/none"))
    files.rm(f"{folder}/a", recursive=True)
    return (
        second.decode(),
        found,
        size,
        missing,
        files.exists(f"{folder}/a"),
        files.ls(folder, False),
    )


def by_url(number):
    """Open a file by its URL."""
    url = f"sftp://{USER}@{HOST}:{PORT}{BASE}/{number}/put"
    with fsspec.open(url, "rb", key_filename=KEY) as file:
        return file.read().decode()


report(
    in_turn=[work(number) for number in range(3)],
    at_once=in_threads(lambda number: work(number + 3), 4),
    by_url=[by_url(number) for number in range(3)],
)
