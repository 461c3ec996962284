"""A system call filter for bubblewrap: what no test program needs, and what escapes the other limits.

Refused with EPERM: looking into other processes, kernel interfaces with a long history of holes, new namespaces and
mounts, and memory that no limit counts (System V shared memory, message queues, memfd). Sockets are refused unless they
are local or IP, and there is no network for the latter. An unknown machine gets no filter.
"""

import errno
import platform
import struct

_SYSTEM_CALLS: dict[str, tuple[int, int | None]] = {
    # name: (aarch64 and all newer machines, x86_64 where it differs)
    "acct": (89, 163),
    "add_key": (217, 248),
    "bpf": (280, 321),
    "clock_settime": (112, 227),
    "delete_module": (106, 176),
    "fanotify_init": (262, 300),
    "finit_module": (273, 313),
    "init_module": (105, 175),
    "inotify_init1": (26, 294),
    "io_setup": (0, 206),
    "io_uring_setup": (425, None),
    "io_uring_enter": (426, None),
    "io_uring_register": (427, None),
    "kcmp": (272, 312),
    "kexec_load": (104, 246),
    "keyctl": (219, 250),
    "memfd_create": (279, 319),
    "memfd_secret": (447, None),
    "mount": (40, 165),
    "move_mount": (429, None),
    "mq_open": (180, 240),
    "msgget": (186, 68),
    "fsopen": (430, None),
    "name_to_handle_at": (264, 303),
    "open_by_handle_at": (265, 304),
    "open_tree": (428, None),
    "perf_event_open": (241, 298),
    "personality": (92, 135),
    "pidfd_getfd": (438, None),
    "pivot_root": (41, 155),
    "process_vm_readv": (270, 310),
    "process_vm_writev": (271, 311),
    "ptrace": (117, 101),
    "reboot": (142, 169),
    "request_key": (218, 249),
    "semget": (190, 64),
    "setns": (268, 308),
    "shmget": (194, 29),
    "swapon": (224, 167),
    "syslog": (103, 103),
    "umount2": (39, 166),
    "unshare": (97, 272),
    "userfaultfd": (282, 323),
}
_CLONE, _CLONE3, _SOCKET = (220, 56), (435, 435), (198, 41)
_AUDIT = {"aarch64": 0xC00000B7, "x86_64": 0xC000003E}
_NEW_NAMESPACES = 0x7E020080  # CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_LOCAL_AND_IP = (1, 2, 10)

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW = 0x7FFF0000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data, little endian


def filter_program(machine: str = platform.machine()) -> bytes:
    """The filter as classic BPF, or nothing for a machine whose numbers are not known here."""
    if machine not in _AUDIT:
        return b""
    column = 1 if machine == "x86_64" else 0
    refuse, unknown = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
    code = [
        *((_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, _AUDIT[machine]), (_RETURN, 0, 0, refuse)),
        *((_LOAD, 0, 0, _NUMBER), (_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, refuse)),  # the x32 calls
        *((_EQUAL, 0, 1, _CLONE3[column]), (_RETURN, 0, 0, unknown)),  # libc falls back to clone, whose flags are seen
        *((_EQUAL, 0, 4, _CLONE[column]), (_LOAD, 0, 0, _FIRST_ARGUMENT), (_ANY_BIT, 0, 1, _NEW_NAMESPACES)),
        *((_RETURN, 0, 0, refuse), (_RETURN, 0, 0, _ALLOW)),
        *((_EQUAL, 0, 3 + len(_LOCAL_AND_IP), _SOCKET[column]), (_LOAD, 0, 0, _FIRST_ARGUMENT)),
        *((_EQUAL, len(_LOCAL_AND_IP) - place, 0, family) for place, family in enumerate(_LOCAL_AND_IP)),
        *((_RETURN, 0, 0, refuse), (_RETURN, 0, 0, _ALLOW)),
    ]
    for numbers in _SYSTEM_CALLS.values():
        number = numbers[column] if numbers[column] is not None else numbers[0]
        code += [(_EQUAL, 0, 1, number or 0), (_RETURN, 0, 0, refuse)]
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)
