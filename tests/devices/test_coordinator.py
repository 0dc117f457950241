"""Where the first process listens, by the kernel's own list of listening sockets."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jaxcifar.common.errors import DeviceError
from jaxcifar.devices.coordinator import BIND_VARIABLE, listening_address, parse_address

# As the kernel prints addresses: the bytes of each 32-bit word turned round, in hex.
V4 = {"0100007F", "0000000000000000FFFF00000100007F"}  # 127.0.0.1, also in a socket of IPv6
V6 = {"00000000000000000000000001000000"}  # ::1
ALL = {"0" * 8, "0" * 32, "0000000000000000FFFF000000000000"}
# A run of one process connects without waiting for others.
CONNECT = """
import sys
from jaxcifar import DeviceOptions, connect
connect(DeviceOptions(coordinator=sys.argv[1], num_processes=1, process_id=0))
print("is connected", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def listening_at(port):
    """The addresses at which a process listens at a port."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address, of_port = local.split(":")
            if state == "0A" and int(of_port, 16) == port:
                found.add(address)
    return found


def addresses_of_a_run(coordinator, port):
    with subprocess.Popen(
        [sys.executable, "-c", CONNECT, coordinator],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        said = [process.stdout.readline()]
        while said[-1] and "is connected" not in said[-1]:  # gloo prints a line, too
            said.append(process.stdout.readline())
        found = listening_at(port)
        process.kill()
    assert said[-1], "did not connect"
    return found


def test_a_run_listens_at_the_address_given_only(port):
    found = addresses_of_a_run(f"127.0.0.1:{port}", port)
    assert found
    assert found <= V4


@pytest.mark.slow  # with the next one five seconds; the addresses are checked quickly below
@pytest.mark.parametrize(("host", "expected"), [("localhost", V4 | V6), ("[::1]", V6)])
def test_a_run_listens_at_a_name_or_an_ipv6_address(host, expected, port):
    found = addresses_of_a_run(f"{host}:{port}", port)
    assert found
    assert found <= expected


@pytest.mark.slow
def test_a_run_listens_where_the_variable_says(port, monkeypatch):
    monkeypatch.setenv(BIND_VARIABLE, f"0.0.0.0:{port}")
    found = addresses_of_a_run(f"127.0.0.1:{port}", port)
    assert found
    assert found <= ALL


def test_the_variable_goes_before_the_address(port, monkeypatch):
    assert listening_address(f"127.0.0.1:{port}") == f"127.0.0.1:{port}"
    monkeypatch.setenv(BIND_VARIABLE, f"[::]:{port}")
    # 192.0.2.0/24 is reserved for documentation: no machine has it.
    assert listening_address(f"192.0.2.77:{port}") == f"[::]:{port}"


def test_a_name_becomes_an_address(port):
    assert listening_address(f"localhost:{port}") in (f"127.0.0.1:{port}", f"[::1]:{port}")


def test_a_name_that_only_this_machine_reaches_is_refused(port, monkeypatch):
    """Debian names a machine 127.0.1.1 in its /etc/hosts."""
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, port, **_: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.1.1", port))],
    )
    with pytest.raises(DeviceError, match=r"node0 is 127\.0\.1\.1 on this machine.* give this"):
        listening_address(f"node0:{port}")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("192.0.2.77:1234", "192.0.2.77 is not an address of this machine"),
        ("[2001:db8::77]:1234", "2001:db8::77 is not an address of this machine"),
        ("nosuch.invalid:1234", "'nosuch.invalid' is not known on this machine"),
        (f"{'a' * 64}.invalid:1234", "is not known on this machine"),  # no name has such a part
    ],
)
def test_an_address_of_another_machine_is_refused(address, message):
    with pytest.raises(DeviceError) as refused:
        listening_address(address)
    assert message in str(refused.value)
    assert str(refused.value).startswith(f"--coordinator {address}: ")


def test_the_way_out_is_named():
    with pytest.raises(DeviceError, match=f"set {BIND_VARIABLE}=HOST:PORT"):
        listening_address("192.0.2.77:1234")


def test_a_port_in_use_is_refused():
    """gRPC would share it, with whoever else listens there."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(DeviceError, match="cannot listen there .*in use.*another port"):
            listening_address(f"127.0.0.1:{port}")


def test_the_variable_is_checked(monkeypatch):
    """JAX crashes without a message."""
    monkeypatch.setenv(BIND_VARIABLE, "everywhere")
    with pytest.raises(DeviceError, match=f"^{BIND_VARIABLE} must be HOST:PORT"):
        listening_address("127.0.0.1:1234")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("node0:1234", ("node0", 1234)),
        ("10.0.0.1:65535", ("10.0.0.1", 65535)),
        ("[::1]:1", ("::1", 1)),
        ("[fe80::1%eth0]:22", ("fe80::1%eth0", 22)),
    ],
)
def test_an_address_is_read_and_printed_alike(text, expected):
    address = parse_address(text, "--coordinator")
    assert address == expected
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        *("node0", ":1234", "[]:1234", "node0:", "node0:x", "node0:0", "node0:65536", "node0:-1"),
        *("node0:\u0661", "::1:1234", "::1", "[::1]", "node0:99999999999"),
    ],
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(DeviceError, match="^--coordinator"):
        parse_address(text, "--coordinator")
