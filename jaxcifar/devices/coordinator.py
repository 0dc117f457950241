"""The address of the first of several processes, where the others find it."""

import errno
import ipaddress
import os
import socket
from typing import NamedTuple

from jaxcifar.common.errors import DeviceError
from jaxcifar.common.messages import shown

# JAX reads it, too: where the first process listens, if not at --coordinator.
BIND_VARIABLE = "JAX_COORDINATOR_BIND_ADDRESS"


class Address(NamedTuple):
    """A host's name or number, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        """HOST:PORT, with an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, option: str) -> Address:
    """Read HOST:PORT.

    Args:
        text: an IPv6 address stands in brackets.
        option: where the text comes from, for messages.

    Raises:
        DeviceError: it is something else.
    """
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    elif ":" in host:
        raise DeviceError(f"{option} {shown(text)}: write an IPv6 address in brackets, [::1]:1234")
    is_port = port.isascii() and port.isdecimal() and len(port) <= 5 and 0 < int(port) < 2**16
    if not host or not is_port:
        raise DeviceError(
            f"{option} must be HOST:PORT{' or auto' if option.startswith('--') else ''}, with a "
            f"port from 1 to 65535, not {shown(text)}"
        )
    return Address(host, int(port))


def listening_address(coordinator: str) -> str:
    """Where the first process listens: at its own address only, by default JAX takes all.

    Args:
        coordinator: HOST:PORT that all processes connect to.

    Returns:
        The address in numbers, or what JAX_COORDINATOR_BIND_ADDRESS says.

    Raises:
        DeviceError: this machine cannot listen there. JAX would crash.
    """
    chosen = os.environ.get(BIND_VARIABLE)
    option = "--coordinator" if chosen is None else BIND_VARIABLE
    address = parse_address(coordinator if chosen is None else chosen, option)
    own = _own_address(address, option)
    is_name = own.host != address.host
    if chosen is None and is_name and _is_loopback(own.host) and address.host != "localhost":
        # Debian and Ubuntu give a machine's own name 127.0.1.1 in /etc/hosts.
        raise DeviceError(
            f"{option} {address}: {address.host} is {own.host} on this machine, where no other "
            f"machine can connect; give this machine's address in the network or, if there is no "
            f"other machine, {own.host}"
        )
    return str(own) if chosen is None else chosen


def _own_address(address: Address, option: str) -> Address:
    """The first address of a host's name that this machine can listen at."""
    try:
        known = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise DeviceError(
            f"{option} {address}: {shown(address.host)} is not known on this machine ({error}); "
            "give its address"
        ) from None
    problem = OSError(errno.EADDRNOTAVAIL, "")
    for family, kind, _, _, place in known:
        try:
            with socket.socket(family, kind) as probe:
                # An address that a connection has just left is free.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
        except OSError as error:
            problem = error
        else:
            return Address(str(place[0]), address.port)
    if problem.errno == errno.EADDRNOTAVAIL:
        raise DeviceError(
            f"{option} {address}: {address.host} is not an address of this machine, where "
            "--process-id 0 runs; give this machine's address, or set "
            f"{BIND_VARIABLE}=HOST:PORT to where it should listen"
        )
    raise DeviceError(
        f"{option} {address}: --process-id 0 cannot listen there ({problem.strerror}); "
        "choose another port"
    )


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback
