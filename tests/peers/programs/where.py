"""Where the programs log in, and how they report; what they share."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

HOST = os.environ["PEER_HOST"]
PORT = int(os.environ["PEER_PORT"])
USER = os.environ["PEER_USER"]
KEY = os.environ["PEER_KEY"]
SCRATCH = os.environ["PEER_SCRATCH"]


def in_threads(function, count):
    """Call a function with 0, 1, ... at once, and return the results in order."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(function, range(count)))


def raised(function):
    """Return the class and the module of what a function raises."""
    try:
        function()
    except Exception as error:
        return f"{type(error).__module__}.{type(error).__qualname__}"
    return "nothing"


def report(**results):
    """Print what came of it, for the comparison."""
    print(json.dumps(results, sort_keys=True, default=repr))
