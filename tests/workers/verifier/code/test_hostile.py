"""Programs that cheat or attack: each scores nothing, harms nobody, and the next program is judged as always."""

import os
import threading
import time
from pathlib import Path

import pytest

from delta.types import FunctionTests, Outcome
from tests.workers.verifier.code.conftest import CASES, GOOD, GOOD_SCRIPT, TESTS, config, left_behind, needs_bubblewrap
from workers.verifier.code import CodeJudge, SandboxMode

ALWAYS_EQUAL = """
class Yes:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 6
    def __bool__(self): return True
    def __lt__(self, other): return True
    __gt__ = __le__ = __ge__ = __contains__ = __lt__
    def __sub__(self, other): return 0
    __rsub__ = __add__ = __radd__ = __sub__
    def __abs__(self): return 0
    def __int__(self): return 6
    __index__ = __len__ = __int__
    def __float__(self): return 6.0
    def __getattr__(self, name): return self
    def __call__(self, *args): return self
    def __instancecheck__(self, other): return True
"""

CHANNEL = """
import os
def sockets():
    for fd in range(3, 64):
        try: os.fstat(fd)
        except OSError: continue
        yield fd
def frame(text):
    return len(text).to_bytes(4, 'little') + text
def everywhere(data):
    for fd in sockets():
        try: os.write(fd, data)
        except OSError: pass
def total(values): return -1
"""

CHEATS = {
    "exit with code 0": "import sys\nsys.exit(0)",
    "exit at once": "import os\nos._exit(0)",
    "exit in the function": "import sys\ndef total(values): sys.exit(0)",
    "exit at once in the function": "import os\ndef total(values): os._exit(0)",
    "interrupt": "def total(values): raise KeyboardInterrupt",
    "generator exit": "def total(values): raise GeneratorExit",
    "markers": "print('PASSED OK 1.0 correct')\ndef total(values):\n print('[\"correct\", \"\"]')\n return -1",
    "always equal": ALWAYS_EQUAL + "def total(values): return Yes()",
    "a class as the function": ALWAYS_EQUAL + "class total(Yes):\n def __init__(self, *args): pass",
    "an object as the function": ALWAYS_EQUAL + "total = Yes()",
    "a lying class": "class Int(int):\n __class__ = int\n def __eq__(self, o): return True\n __hash__ = int.__hash__\n"
    "def total(values): return Int(-1)",
    "equal str": "class S(str):\n def __eq__(self, o): return True\n __hash__ = str.__hash__\n"
    "def total(v): return S('')",
    "equal list": "class L(list):\n def __eq__(self, o): return True\ndef total(v): return L()",
    "a lying metaclass": "class M(type):\n def __eq__(self, o): return True\n def __hash__(self): return hash(int)\n"
    " def mro(cls): return [cls, int, object] if False else type.mro(cls)\n"
    "class I(metaclass=M): pass\ndef total(v): return I()",
    "patched builtins": "import builtins\n"
    "for name in ('len', 'sorted', 'abs', 'all', 'any', 'isinstance', 'print', 'open', 'sum', 'repr', 'type'):\n"
    "    setattr(builtins, name, lambda *a, **k: True)\ndef total(values): return -1",
    "patched modules": "import math, operator, json, marshal\nmath.isclose = operator.eq = lambda *a, **k: True\n"
    "json.loads = marshal.loads = lambda *a: ['ok', 6]\ndef total(values): return -1",
    "no assertions": "import builtins\nbuiltins.AssertionError = type('E', (Exception,), {})\n"
    "def total(values): raise AssertionError",
    "an assertion error of its own": "def total(values): assert False",
    "no bytecode": "import sys\nsys.flags\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\n"
    "def total(values): return -1",
    "frames and garbage": "import gc, sys\ndef total(values):\n"
    " seen = [value for o in gc.get_objects() if isinstance(o, dict) for value in list(o.values())]\n"
    " frame, consts = sys._getframe(), []\n"
    " while frame: consts += list(frame.f_code.co_consts) + list(frame.f_locals.values()); frame = frame.f_back\n"
    " return next((v for v in seen + consts if isinstance(v, int) and v == 777776 + 1 and len(values) == 2), -1)",
    "a thread": "import threading, time\n"
    "def work():\n while True: time.sleep(0.01)\nthreading.Thread(target=work).start()\ndef total(values): return -1",
    "signal handlers": "import signal\nfor s in range(1, 32):\n"
    " try: signal.signal(s, lambda *a: None)\n except (OSError, ValueError): pass\ndef total(values): return -1",
    "alarms": "import signal\ndef stop(*a): raise SystemExit(0)\nsignal.signal(signal.SIGALRM, stop)\n"
    "def total(values):\n signal.setitimer(signal.ITIMER_REAL, 0.01)\n return -1",
    "atexit": "import atexit, os\natexit.register(os._exit, 0)\ndef total(values): return -1",
    "changed arguments": "def total(values):\n values[:] = []\n return -1",
    "changed arguments, nothing returned": "def total(values): values[:] = [6]",
    "deleted folder": "import os, shutil\nshutil.rmtree(os.getcwd(), ignore_errors=True)\ntry: os.rmdir(os.getcwd())\n"
    "except OSError: pass\ndef total(values): return -1",
    "a hostile exception": "class E(Exception):\n def __str__(self): raise SystemExit\n __repr__ = __str__\n"
    " args = property(__str__)\ndef total(values): raise E()",
    "an exception with a huge text": "def total(values): raise ValueError('x' * 10**7)",
    "an exception class with a lying name": "class E(Exception): pass\nE.__name__ = 'AssertionError' * 1000\n"
    "E.__qualname__ = 'a'\ndef total(values): raise E()",
    "an endless generator": "def total(values):\n while True: yield 6",
    "null bytes": "def total(values): return 6\0\n",
    "surrogates": "def total(values): return '\udc80'\n",
    "deep source": "total = lambda values: " + "(" * 5000 + "6" + ")" * 5000,
    "deep source without parentheses": "def total(values): return " + "-" * 100_000 + "6",
    "a long program": "def total(values): return -1\n" + "#" * 10_000_000,
    "a huge integer": "def total(values): return 1 << 10**7",
    "a huge list": "def total(values): return [0] * 10**7",
    "a deep list": "def total(values):\n r = []\n for _ in range(900): r = [r]\n return r",
    "a deeper list": "def total(values):\n r = []\n for _ in range(10**6): r = [r]\n return r",
    "a list in itself": "def total(values):\n r = []\n r.append(r)\n return r",
    "a dictionary view in itself": "def total(values):\n r = {}\n r[1] = r\n return r.items()",
    "garbage in every file": CHANNEL + "everywhere(b'\\xff' * 100)",
    "a forged load": CHANNEL + 'everywhere(frame(b\'["ok",null]\') + frame(b\'["ok",["l",6]]\') * 20)\nos._exit(0)',
    "early answers": CHANNEL + "everywhere(frame(b'[\"ok\",6]') * 10)",
    "answers twice": CHANNEL + "def total(values):\n everywhere(frame(b'[\"ok\",6]'))\n return 6",
    "an oversized answer": CHANNEL + "everywhere(b'\\xff\\xff\\xff\\x7f' + b'[' * 10**6)",
    "a deeply nested answer": CHANNEL + "def total(values):\n everywhere(frame(b'[' * 10**5 + b']' * 10**5))",
    "a wrong tag": CHANNEL + 'def total(values):\n everywhere(frame(b\'["ok",["no",1]]\'))',
    "a tag that is no text": CHANNEL + "def total(values):\n everywhere(frame(b'[\"ok\",[[1],1]]'))",
    "an empty value": CHANNEL + "def total(values):\n everywhere(frame(b'[\"ok\",[]]'))",
    "an object": CHANNEL + 'def total(values):\n everywhere(frame(b\'["ok",{"l":1}]\'))',
    "a hostile named tuple": CHANNEL
    + 'def total(values):\n everywhere(frame(b\'["ok",["N","a",["l","x=__import__(0)"],6]]\'))',
    "a function of the tests": CHANNEL + 'def total(values):\n everywhere(frame(b\'["call",0,["t"],["d"]]\'))',
    "the verdict": CHANNEL + 'everywhere(b\'["correct", ""]\')\nos._exit(0)',
    "a closed channel": CHANNEL + "for fd in list(sockets()): os.close(fd)",
    "a channel led elsewhere": CHANNEL + "for fd in list(sockets()): os.dup2(1, fd)",
    "many copies of the channel": CHANNEL + "for fd in list(sockets()):\n"
    " for _ in range(100):\n  try: os.dup(fd)\n  except OSError: pass",
    "its own server": "import os, signal\ndef total(values): os.kill(os.getpid(), signal.SIGKILL)",
    "a crash": "import ctypes\ndef total(values): ctypes.string_at(0)",
    "a crash at once": "import ctypes\nctypes.string_at(0)",
}
"""Over in no time."""

ATTACKS = {
    "a survivor": "import os, time\n"
    "if os.fork() == 0:\n os.setsid()\n if os.fork() == 0:\n  while True: time.sleep(1)\n os._exit(0)\n"
    "def total(values): return -1",
    "a survivor that holds the channel": "import os, time\n"
    "if os.fork() == 0:\n os.setsid()\n time.sleep(1000)\nos._exit(0)",
    "all signals ignored": "import signal, time\nfor s in range(1, 32):\n"
    " try: signal.signal(s, signal.SIG_IGN)\n except (OSError, ValueError): pass\n"
    "while True: time.sleep(1)\n",
    "a fork bomb": "import os\nwhile True:\n try: os.fork()\n except OSError: pass",
    "a thread bomb": "import threading, time\nwhile True:\n"
    " try: threading.Thread(target=time.sleep, args=(1000,)).start()\n except RuntimeError: time.sleep(0.01)",
    "a memory bomb": "data = []\nwhile True: data.append(bytearray(10**7))",
    "a memory bomb of eight": "import os, time\nfor _ in range(8):\n"
    " if os.fork() == 0:\n  data = []\n  for _ in range(20): data.append(bytearray(10**7))\n  time.sleep(1000)\n"
    "while True: time.sleep(1)",
    "a shared memory bomb": "import mmap, time\nm = [mmap.mmap(-1, 50 * 2**20) for _ in range(4)]\nimport os\n"
    "def fill():\n for part in m:\n  part.write(b'1' * len(part))\n"
    "for _ in range(3):\n if os.fork() == 0:\n  m = [mmap.mmap(-1, 50 * 2**20) for _ in range(4)]\n  fill()\n"
    "  time.sleep(1000)\nfill()\ntime.sleep(1000)",
    "a gigabyte of output": "import os\nblock = b'x' * 2**20\nfor _ in range(1024): os.write(1, block)\n"
    "def total(values): return -1",
    "a full disk": "n = 0\nwhile True:\n n += 1\n with open(f'f{n}', 'wb') as file: file.write(b'x' * 2**20)",
    "kill everybody": "import os\nos.kill(-1, 9)",
    "kill the group": "import os, signal\nos.killpg(0, 9)",
    "kill the parent": "import os\nos.kill(os.getppid(), 9)\nimport time\ntime.sleep(1)",
    "sleep": "import time\ntime.sleep(10**6)",
    "a loop": "while True: pass",
    "a loop in the function": "def total(values):\n while True: pass",
    "a loop in a C call": "def total(values): return sum(iter(int, 1))",
    "a loop in one C call": "def total(values): return (9 ** 9 ** 7) ** 9 ** 5 % 7",
    "a hostile iterator in the value": "class L(list):\n def __iter__(self):\n  while True: pass\n"
    "class O:\n def __iter__(self):\n  while True: pass\ndef total(values): return list(O())",
    "a class with hostile attributes": "class M(type):\n"
    " @property\n def __mro__(cls):\n  while True: pass\n"
    "class C(metaclass=M): pass\ndef total(values): return C()",
    "an endless exchange": CHANNEL + "def total(values):\n while True: everywhere(frame(b'[\"call\",0]'))",
    "half an answer": CHANNEL + "def total(values):\n everywhere(b'\\xff\\0\\0\\0[')\n import time\n time.sleep(1000)",
    "numbers that collide": CHANNEL + "def total(values):\n"
    " everywhere(frame(b'[\"ok\",[\"s\"' + b''.join(b',%d' % (k * (2**61 - 1)) for k in range(1, 4)) + b']]'))",
}
"""Up to a timeout or a limit."""


def expect_good(judge: CodeJudge) -> None:
    verdict = judge.judge(GOOD, TESTS)
    assert (verdict.outcome, verdict.reward) == (Outcome.correct, 1.0), verdict.detail


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_scores_nothing_and_the_next_program_is_judged(judge: CodeJudge, name: str):
    verdict = judge.judge(CHEATS[name], TESTS)
    assert verdict.reward == 0.0
    assert verdict.outcome in (Outcome.wrong, Outcome.unparsable), verdict
    expect_good(judge)


HARMLESS_ONLY_IN_A_NAMESPACE = {"kill everybody", "kill the parent"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_scores_nothing_and_the_next_program_is_judged(judge: CodeJudge, name: str):
    if judge.mode is SandboxMode.process and os.getuid() != 0 and name in HARMLESS_ONLY_IN_A_NAMESPACE:
        pytest.skip("process mode does not protect this user's own processes")
    judge.ready()
    before = left_behind()
    started = time.monotonic()
    verdict = judge.judge(ATTACKS[name], TESTS)
    assert verdict.reward == 0.0
    assert verdict.outcome in (Outcome.wrong, Outcome.timeout), verdict
    assert time.monotonic() - started < 8
    expect_good(judge)
    judge.ready()
    assert left_behind()[1:] == before[1:]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a fork bomb", "a memory bomb of eight", "kill everybody"])
def test_a_neighbour_under_attack_changes_no_verdict(judge: CodeJudge, name: str):
    if judge.mode is SandboxMode.process and os.getuid() != 0:
        pytest.skip("process mode does not keep this user's programs apart")
    with CodeJudge(config(judge.mode, timeout_s=10.0)) as neighbour:
        attack = threading.Thread(target=judge.judge, args=(ATTACKS[name], TESTS))
        attack.start()
        for _ in range(5):
            expect_good(neighbour)
        attack.join()
    expect_good(judge)


SCRIPTS = {
    "prints markers": "print('PASSED')",
    "exits": "import os\nos._exit(0)",
    "prints, then fails": "import sys\nprint(sum(map(int, sys.stdin.read().split())))\nsys.exit(1)",
    "prints, then raises": "import sys\nprint(sum(map(int, sys.stdin.read().split())))\nraise ValueError",
    "looks for the answer": "import gc, os\nprint([o for o in gc.get_objects() if '777777' in repr(o)][:1])",
    "kills everybody": "import os\nos.kill(-1, 9)",
    "kills its server": "import os\nos.kill(os.getppid(), 9)",
    "a gigabyte of output": "import os\nfor _ in range(1024): os.write(1, b'x' * 2**20)",
    "a loop": "while True: pass",
    "sleep": "import time\ntime.sleep(1000)",
    "a fork bomb": "import os\nwhile True:\n try: os.fork()\n except OSError: pass",
    "a memory bomb": "data = []\nwhile True: data.append(bytearray(10**7))",
    "answers once and survives": "import os, time\nif os.fork() == 0:\n os.setsid()\n time.sleep(1000)\nprint(6)",
    "closes everything": "import os\nos.closerange(0, 64)",
    "null bytes": "print(6)\0",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_hostile_script_scores_nothing_and_the_next_one_is_judged(judge: CodeJudge, name: str):
    if judge.mode is SandboxMode.process and os.getuid() != 0 and name == "kills everybody":
        pytest.skip("process mode does not protect this user's own processes")
    verdict = judge.judge(SCRIPTS[name], CASES)
    assert verdict.reward == 0.0
    assert judge.judge(GOOD_SCRIPT, CASES).outcome is Outcome.correct


SECRET = "s3cret-in-the-environment"

LOOKS = {
    "shadow": "open('/etc/shadow').read()",
    "passwd": "open('/etc/passwd').read()",
    "this repository": f"open({str(Path(__file__))!r}).read()",
    "the folder of temporary files": "[1/0] if not os.listdir('/tmp') else 1",
    "environments": "found(SECRET, 'environ')",
    "command lines": "found('pytest', 'cmdline')",
    "memory of others": "[open(f'/proc/{p}/mem', 'rb').seek(0) for p in processes() if p != str(os.getpid())]",
    "memory of the parent": "open('/proc/1/mem', 'rb')",
    "files of the parent": "os.listdir('/proc/1/fd')",
    "root of the parent": "os.listdir('/proc/1/root')",
    "the network": "socket.create_connection(('1.1.1.1', 53), 2)",
    "this machine": "socket.create_connection(('127.0.0.1', PORT), 2)",
    "raw sockets": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "a user namespace": "call(272, 0x10000000)",
    "a file without a name": "os.memfd_create('a')",
    "ptrace": "call(101, 16, 1, 0, 0)",
    "shared memory": "call(29, 0, 2**30, 0o1666)",
    "shared memory files": "open('/dev/shm/x', 'w')",
    "another folder": "open('/x', 'w')",
    "the standard library": "open(os.__file__, 'a')",
    "becoming root": "os.setuid(0)",
    "a device": "os.mknod('/tmp/disk', 0o60666, os.makedev(254, 0)) or open('/tmp/disk')",
    "chroot": "os.chroot('/tmp')",
    "the machine's name": "[1/0] if os.uname().nodename == 'sandbox' else 1",
    "the kernel's switches": "open('/proc/sys/kernel/hostname', 'w').write('x')",
    "many processes": "[1/0] if os.getpid() < 10 else 1",
}
LOOKING = """
import ctypes, os, socket
SECRET, PORT = {secret!r}, {port}
def processes():
    return [p for p in os.listdir('/proc') if p.isdigit()]
def found(text, name):
    for p in processes():
        if p == str(os.getpid()): continue
        try: data = open(f'/proc/{{p}}/{{name}}', 'rb').read()
        except OSError: continue
        if text.encode() in data: return True
    raise OSError('nowhere')
def call(*numbers):
    if ctypes.CDLL(None, use_errno=True).syscall(*numbers) < 0: raise OSError(ctypes.get_errno(), 'refused')
def look():
    try:
        {look}
    except (OSError, ZeroDivisionError):
        return 'refused'
    return 'seen'
"""


@needs_bubblewrap
def test_nothing_of_the_machine_is_within_reach(monkeypatch: pytest.MonkeyPatch):
    import socket

    monkeypatch.setenv("SECRET", SECRET)
    listener = socket.create_server(("127.0.0.1", 0))
    seen = {}
    with CodeJudge(config(SandboxMode.bubblewrap)) as judge, listener:
        for name, look in LOOKS.items():
            program = LOOKING.format(secret=SECRET, port=listener.getsockname()[1], look=look)
            verdict = judge.judge(program, FunctionTests("assert look() == 'refused'", "look"))
            if verdict.outcome is not Outcome.correct:
                seen[name] = verdict.detail
    assert not seen


def test_the_environment_of_a_program_is_empty(judge: CodeJudge):
    program = "import os\ndef look(): return [dict(os.environ), os.getenv('PYTHONHASHSEED')]"
    verdict = judge.judge(program, FunctionTests("assert look() == [{}, None]", "look"))
    assert verdict.outcome is Outcome.correct, verdict.detail


def test_a_program_sees_no_expected_value_and_no_tests(judge: CodeJudge):
    program = (
        "import gc, os\n"
        "def total(values):\n"
        "    found = [repr(o) for o in gc.get_objects() if isinstance(o, (str, bytes, tuple, list, dict))]\n"
        "    own = []\n"
        "    for name in ('cmdline', 'environ'):\n"
        "        try: own.append(open(f'/proc/self/{name}', 'rb').read().decode(errors='replace'))\n"
        "        except OSError: pass\n"
        "    needles = [''.join(parts) for parts in (('check(candi', 'date)'), ('7777', '77'))]\n"
        "    return [n for n in needles if any(n in text for text in found + own)]\n"
    )
    tests = FunctionTests(TESTS.source.replace("check(total)", "") + "assert total([]) == []\n", "total")
    verdict = judge.judge(program, tests)
    assert verdict.outcome is Outcome.correct, verdict.detail
