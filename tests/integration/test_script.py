"""Scripts as they are delivered, run by real shells."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path
from typing import Dict, List, Tuple

import pytest

from ssh_service.commands.process_group import RemoteGroup
from ssh_service.commands.script import Delivery, deliver, join
from tests.unit.test_script import encoded

TIMEOUT = 60
SH = shutil.which("sh") or "/bin/sh"


def installed(*names: str) -> List[List[str]]:
    paths = [shutil.which(name) for name in names]
    return [[path] for path in paths if path is not None]


POSIX = installed("sh", "dash", "bash", "zsh", "mksh", "ksh", "yash")
POSIX += [[path, "sh"] for (path,) in installed("busybox")]
FOREIGN = installed("csh", "tcsh", "fish")

HARD = [
    "plain",
    "",
    " ",
    "'; touch x; '",
    "x'; touch x; V='y",
    "$(touch x)",
    "`touch x`",
    "${HOME}",
    "$HOME $$ $? !! !x",
    'a "quoted" word',
    "it's",
    "'''",
    "back\\slash \\n \\\\ \\' end\\",
    "two\nlines",
    "\nleading and trailing\n\n",
    "tab\there  two  spaces ",
    "\r\n",
    "*;?[a-z]{a,b}~#&|<>()",
    "-n",
    "-e",
    "%s %d %%",
    "=assignment",
    "żółć 日本語 😀",
    "\x01\x02\x7f\x80\x81\x82\x88\x98\xff",
    "\udc80\udcff\udc81",  # bytes that are no UTF-8, as os.environ gives them
    "\u2028\x85\x0b\x0c\x1c",
    "x" * 5000,
]


def name_of(shell: List[str]) -> str:
    return "-".join([Path(shell[0]).name, *shell[1:]])


each_shell = pytest.mark.parametrize("shell", POSIX, ids=name_of)


def run(
    shell: List[str],
    delivery: Delivery,
    folder: Path,
    stdin: bytes = b"",
    timeout: float = TIMEOUT,
    **env: str,
) -> Tuple[int, bytes, bytes]:
    """Do as sshd does: the login shell runs the request, its stdin is a pipe that ends."""
    done = subprocess.run(
        [*shell, "-c", delivery.command],
        input=delivery.preamble + stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=str(folder),
        timeout=timeout,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "LANG": "C.UTF-8", **env},
    )
    return done.returncode, done.stdout, done.stderr


@each_shell
@pytest.mark.parametrize("wrapped", [False, True], ids=["login shell", "ssh_shell"])
def test_hard_values_arrive_to_the_letter(shell: List[str], wrapped: bool, tmp_path: Path) -> None:
    env = {f"V{number}": value for number, value in enumerate(HARD)}
    text = "\n".join(f"printf '%s\\001\\000' \"${name}\"" for name in env)
    inner = shell[0] if wrapped and len(shell) == 1 else None
    status, stdout, stderr = run(shell, deliver(text, env, inner), tmp_path)
    assert (status, stderr) == (0, b"")
    assert stdout.split(b"\1\0")[:-1] == [encoded(value) for value in HARD]
    assert list(tmp_path.iterdir()) == []


@each_shell
def test_two_thousand_random_values_arrive_to_the_letter_and_nothing_is_run(
    shell: List[str], tmp_path: Path
) -> None:
    rng = random.Random(4711)
    pieces = ["'; touch x", "$(touch x)", "`touch x`", "\n", "'", '"', "\\", "$", "!", "#", "\t"]
    pieces += [" ", "a", "Z", "0", "%", "*", "~", ";", "&", "|", "<", ">", "(", "{", "żó", "\x81"]
    pieces += ["\udc81", "\udcff", "\x7f", "\r", "EOF", "-", "=", "[", "?"]
    values = ["".join(rng.choices(pieces, k=rng.randrange(12))) for _ in range(2000)]
    for start in range(0, len(values), 250):
        env = {f"V{number}": value for number, value in enumerate(values[start : start + 250])}
        # The values themselves, and what a child is given of them.
        text = "\n".join(f"printf '%s\\000' \"${name}\"" for name in env) + "\nenv -0"
        status, stdout, stderr = run(shell, deliver(text, env), tmp_path)
        assert (status, stderr) == (0, b"")
        parts = stdout.split(b"\0")
        assert parts[: len(env)] == [encoded(value) for value in env.values()]
        children = dict(part.split(b"=", 1) for part in parts[len(env) :] if b"=" in part)
        assert {name: children[encoded(name)] for name in env} == {
            name: encoded(value) for name, value in env.items()
        }
    assert list(tmp_path.iterdir()) == []


@each_shell
@pytest.mark.parametrize("env", [{}, {"A": "b"}], ids=["exec", "stdin"])
def test_the_script_runs_as_written_whichever_way_it_goes(
    shell: List[str], env: Dict[str, str], tmp_path: Path
) -> None:
    text = "\n".join(
        [
            "# a comment that isn't closed",
            "x='one",
            "two'",
            'echo "$x" \'$x\' "it\'s"',
            "cat <<'EOF'",
            "$not `expanded` \\n",
            "EOF",
            "cat <<EOF",
            "[$x]",
            "EOF",
            "f() {",
            '  echo "in f: $1"',
            "}",
            "f 'ż ó'",
            "echo continued \\",
            "  line",
            "for i in 1 2; do echo $i",
            "done",
            "if read line; then echo \"stdin: $line\"; else echo 'stdin is at its end'; fi",
            "echo err >&2",
            "echo ${_ssh_n-unset} ${_ssh_s-unset}",
            "# the beginning of a line must not be taken into a parameter before it",
            "[ a = a ] && echo bracket",
            ": colon",
            "{ echo brace; }",
            "(exit 3)",
            'echo $? $# "$*"',
            "exit 42",
        ]
    )
    status, stdout, stderr = run(shell, deliver(text, env), tmp_path)
    assert (status, stderr) == (42, b"err\n")
    assert stdout.decode() == (
        "one\ntwo $x it's\n$not `expanded` \\n\n[one\ntwo]\nin f: ż ó\ncontinued line\n1\n2\n"
        "stdin is at its end\nunset unset\nbracket\nbrace\n3 0 \n"
    )


@each_shell
def test_the_script_finds_what_the_caller_gave_it_to_read_and_then_the_end(
    shell: List[str], tmp_path: Path
) -> None:
    delivery = deliver('read first; echo "[$first]"; cat; echo end', {"A": "b"})
    status, stdout, stderr = run(shell, delivery, tmp_path, b"one\ntwo\n\xff\0\n")
    assert (status, stdout, stderr) == (0, b"[one]\ntwo\n\xff\0\nend\n", b"")


@each_shell
def test_the_exit_status_is_the_scripts(shell: List[str], tmp_path: Path) -> None:
    for text, expected in [("true", 0), ("false", 1), ("exit 7", 7), ("no-such-command-x", 127)]:
        for env in ({}, {"A": "b"}):
            assert run(shell, deliver(text, env), tmp_path)[0] == expected, (text, env)
    # A syntax error is one whichever way it comes, and ends in no success.
    assert run(shell, deliver("if", {"A": "b"}), tmp_path)[0] != 0


@each_shell
def test_variables_that_shells_care_for_arrive_too(shell: List[str], tmp_path: Path) -> None:
    env = {"IFS": "0123456789", "LC_ALL": "C", "PS4": "x", "_ssh_n": "mine", "_ssh_s": "mine too"}
    text = 'printf "%s|" "$IFS" "$LC_ALL" "$_ssh_n" "$_ssh_s" "żółć"'
    status, stdout, stderr = run(shell, deliver(text, env), tmp_path)
    assert (status, stderr) == (0, b"")
    assert stdout.decode() == "0123456789|C|mine|mine too|żółć|"


@each_shell
@pytest.mark.parametrize(
    "env", [{}, {"A": "b"}, {"IFS": "0123456789"}], ids=["plain", "env", "IFS"]
)
def test_process_group_report_is_complete_and_hidden_from_output(
    shell: List[str], env: Dict[str, str], tmp_path: Path
) -> None:
    """An IFS with digits must not split the number: the wrong group would be killed."""
    group = RemoteGroup(root=True)
    group._awaits_mark = True
    delivery = deliver('echo "$$"; echo err >&2; exit 3', env, shell[0], group.prologue)
    if len(shell) > 1:  # busybox, which is a shell by its first argument
        delivery = deliver(
            'echo "$$"; echo err >&2; exit 3', {"A": "b", **env}, None, group.prologue
        )
    status, stdout, stderr = run(shell, delivery, tmp_path)
    assert status == 3
    assert group.strip(stderr) + group.flush() == b"err\n"
    found = group.process
    assert found is not None and found.pid == int(stdout)
    assert found.started and len(found.boot) == 36 and not found.leads  # it is in our group


@each_shell
def test_a_hundred_kib_and_a_mebibyte_run(shell: List[str], tmp_path: Path) -> None:
    for size in (100 * 1024, 1024 * 1024):
        filler = "# it's filler $(touch x)\n"
        text = filler * (size // len(filler)) + "echo done"
        assert run(shell, deliver(text), tmp_path) == (0, b"done\n", b"")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
@each_shell
def test_sixteen_mib_run(shell: List[str], tmp_path: Path) -> None:
    if Path(shell[0]).name == "zsh":
        pytest.skip("zsh takes minutes for so many lines")
    line = "true 'it is long' \"$HOME\"\n"
    text = line * ((16 * 1024 * 1024 - 20) // len(line)) + "echo done"
    assert run(shell, deliver(join(text)), tmp_path, timeout=300) == (0, b"done\n", b"")


@each_shell
@pytest.mark.parametrize("at", range(4090, 4130, 11))
def test_a_long_script_runs_as_if_it_were_one_word(
    shell: List[str], at: int, tmp_path: Path
) -> None:
    """Its words are joined without a trace: IFS, parameters, quotes, newlines, characters."""
    text = "#" * at + "\n" + "a=\"1'\n\n2\"\n:  ż\nset -f\nb='x y'\nprintf '%s|' \"$a\" $b $#"
    text += '\nprintf \'%s|\' "${IFS%%?}" "${_ssh_i-none}${_ssh_s-none}"'
    expected = "1'\n\n2|" + ("x y|" if Path(shell[0]).name == "zsh" else "x|y|") + "0|"
    status, stdout, stderr = run(shell, deliver(text, {"A": "b"}), tmp_path)
    assert (status, stderr) == (0, b"")
    assert stdout.decode().startswith(expected + " \t") and stdout.endswith(b"|nonenone|")


@each_shell
def test_a_value_of_half_a_megabyte_arrives(shell: List[str], tmp_path: Path) -> None:
    # It cannot be exported to children (E2BIG), but builtins must see all of it.
    value = "it's " * 100_000
    delivery = deliver('echo "${#V}"', {"V": value})
    assert run(shell, delivery, tmp_path)[:2] == (0, f"{len(value)}\n".encode())


@pytest.mark.parametrize("login", FOREIGN, ids=[name_of(login) for login in FOREIGN])
@pytest.mark.parametrize("env", [{}, {"V": "it's $(touch x)\n`x` !y"}], ids=["plain", "env"])
def test_csh_and_fish_hand_the_script_to_the_shell_that_is_set(
    login: List[str], env: Dict[str, str], tmp_path: Path
) -> None:
    inner = shutil.which("bash") or "/bin/sh"
    text = "printf '%s|' \"$V\"\ncase x in x) echo posix;; esac\nexit 5"
    status, stdout, stderr = run(login, deliver(text, env, inner), tmp_path)
    assert (status, stderr) == (5, b"")
    assert stdout.decode() == env.get("V", "") + "|posix\n"
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")] == []


def test_the_shell_that_is_set_may_have_any_path(tmp_path: Path) -> None:
    folder = tmp_path / "it's a $(folder)"
    folder.mkdir()
    shell = folder / "my sh"
    shell.symlink_to(SH)
    status, stdout, _ = run([SH], deliver("echo $0", {}, str(shell)), tmp_path)
    assert (status, stdout.decode().strip()) == (0, str(shell))


def test_nothing_is_forked_to_read_the_script(tmp_path: Path) -> None:
    """With a PATH that leads nowhere only builtins work."""
    delivery = deliver("echo read", {"A": "b"})
    assert run([SH], delivery, tmp_path, PATH="/nowhere") == (0, b"read\n", b"")
