"""Ask a service on this host by HTTP."""

from __future__ import annotations

# Bytes. No more is read, whoever it is that answers there.
_MOST = 1 << 20


def find_problem(address: str, port: int, path: str, seconds: float) -> str:
    """Ask, and say what is wrong with the answer; empty where there is a whole one.

    Args:
        address: the IP address, one of this host.
        port: the port.
        path: what is asked for.
        seconds: how long to wait for each part of the answer.
    """
    import http.client  # nobody but `verify` asks, and that seldom

    connection = http.client.HTTPConnection(address, port, timeout=seconds)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        if len(answer.read(_MOST)) < _MOST and answer.length:
            return "its answer ends early"
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    finally:
        connection.close()
    return "" if answer.status == http.client.OK else f"{answer.status} {answer.reason}"
