"""Starting and stopping the server."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from recipes.checks import refuse
from recipes.cli import DONE
from recipes.config.schema import GenerateConfig
from recipes.config.validate_serving import server_token
from recipes.console import quiet_libraries, say
from recipes.errors import UserError

if TYPE_CHECKING:
    from recipes.server.asked import Served

PACKAGES = ("starlette", "uvicorn", "prometheus_client", "pydantic")


def check_installed() -> None:
    """Refuses to serve without the packages of the extra ``server``."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"server=true: {', '.join(missing)} not installed: they come with the extra 'server', "
            "pip install -e '.[server]' -c constraints.txt"
        )


def listen(host: str, port: int) -> socket.socket:
    """A socket at this address, on which nobody is answered yet.

    Raises:
        UserError: it is not an address of this machine, or the port is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        refuse("serving.host", host, f"no address of this machine ({error.strerror})")
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        refuse("port", str(port), f"cannot listen there at {host}: {error.strerror}")
    return listener


def url_of(listener: socket.socket) -> str:
    """Where clients reach it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(config: GenerateConfig) -> int:
    """Answers requests until a signal stops it: SIGTERM or Ctrl-C.

    Running requests may finish within serving.shutdown_timeout; a second signal does not wait for them.

    Returns:
        The exit code.

    Raises:
        UserError: a package is missing, or the address or the model cannot be used.
    """
    check_installed()
    with listen(config.serving.host, config.port) as listener:  # Before the model is loaded.
        if config.dry_run:
            say(f"would serve {config.gpt_model_file} at {url_of(listener)}")
            return DONE
        quiet_libraries()
        return _serve(config, listener)


def _serve(config: GenerateConfig, listener: socket.socket) -> int:
    from recipes.inference.engine import Engine
    from recipes.server.app import make_app
    from recipes.server.engine_thread import EngineThread
    from recipes.server.metrics import Metrics
    from recipes.server.stopping import StoppingServer

    serving = config.serving
    served = _load(config)
    engine = EngineThread(
        Engine(served.model, slots=config.batch_size, max_length=served.max_length),
        capacity=config.batch_size + serving.max_waiting,
    )
    token = server_token()
    # No page knows a token, and behind a proxy the server has other names.
    hosts = ("localhost", "127.0.0.1", "::1", serving.host) if token is None else None
    app = make_app(served, engine, Metrics(engine), token, hosts)
    server = StoppingServer(app, engine, serving.shutdown_timeout)

    async def run() -> None:
        engine.start(server.stop)
        try:
            await server.serve(sockets=[listener])
        finally:
            engine.close()

    say(f"serving {served.name} at {url_of(listener)} (stop with Ctrl-C)")
    asyncio.run(run())
    if engine.failure is not None:
        raise engine.failure
    return DONE


def _load(config: GenerateConfig) -> Served:
    from recipes.checkpoint.open import open_stored_model
    from recipes.inference.text_model import load_text_model
    from recipes.server.asked import Served
    from recipes.server.chat_template import stored_template

    path, serving = Path(config.gpt_model_file), config.serving
    # Before its weights are read.
    with open_stored_model(path, verify=False, weights=config.weights) as source:
        longest = source.model.max_position_embeddings
        chat = stored_template(source)
    length = serving.max_length or longest
    if length > longest:
        refuse("serving.max_length", length, f"the model reads {longest:,} tokens")
    model = load_text_model(
        str(path), precision=config.precision, num_threads=config.num_threads, weights=config.weights
    )
    return Served(model, serving.model_name or path.stem, length, serving, chat)
