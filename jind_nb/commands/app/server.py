"""The server of the web page: Voila with one notebook, and handlers for uploads and results.

All pages, uploads, results and kernels' websockets need the token, or the cookie that a browser gets for it; only
Voila's own scripts and styles do not. A visitor with the token may upload, train, and read the files in the data
folders. Another visitor's files need that visitor's link as well. A page's kernel runs the notebook and nothing else:
Voila passes on the messages of widgets, but none that executes code; the kernel's id is random. All kernels run as the
user who started the server, so only these checks separate the visitors, not the operating system.
"""

import asyncio
import errno
import logging
import os
import re
import secrets
import socket
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import tornado.ioloop
import tornado.web
from jupyter_server import DEFAULT_STATIC_FILES_PATH
from jupyter_server.auth.decorator import allow_unauthenticated
from jupyter_server.auth.identity import PasswordIdentityProvider
from jupyter_server.auth.login import LoginFormHandler
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.utils import ensure_async, url_path_join
from traitlets.config import Config
from voila.app import Voila
from voila.static_file_handler import TemplateStaticFileHandler
from voila.tornado.handler import TornadoVoilaHandler

from ...core._compat import answer_addresses_by_name, n_kernels, own_kernels_only
from ...core.files import read_json, write_json
from ...core.processes import own_folder, own_settings, short_places
from ...core.resources import shipped
from ...errors import InputError
from ...report.page import script_and_hash
from ..terminal import plain, print_line
from .widgets import html, in_words
from .workspace import PART, AppSettings, Workspace, is_of_this_machine, remove_old

SECONDS_BEFORE_CULLED = 1800  # for a kernel whose tab is lost or asleep; a closed tab ends its kernel at once

SECONDS_UNTIL_RETRY = 30  # for a page that the server had no room for

SECONDS_BETWEEN_CLEANINGS = 3600

PORTS_TRIED = 20

EVERYWHERE = ("", "::")  # addresses that mean all of this machine's, those of IPv4 and of IPv6

# A report holds other people's data: it may only show itself and run its own script, as a page without origin.
REPORT_MAY = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; img-src data:; style-src 'unsafe-inline'; font-src data:; "
    "frame-ancestors 'self'; script-src {}"
)

# The page loads nothing from other servers.
PAGE_MAY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'self'"
)

# Voila's template links style sheets of icons on another server: the page has no such icons, and its browser would complain.
FOREIGN_STYLES = re.compile(r'<link rel="stylesheet" href="https://[^">]*"[^>]*>')

WIDGETS = ["@jupyter-widgets/jupyterlab-manager", "@voila-dashboards/widgets-manager8"]

OF_VOILA = Config()
OF_VOILA.VoilaConfiguration.allow_template_override = "NO"
OF_VOILA.VoilaConfiguration.allow_theme_override = "NO"
OF_VOILA.VoilaConfiguration.extension_allowlist = WIDGETS
OF_VOILA.VoilaConfiguration.file_allowlist = []
OF_VOILA.MappingKernelManager.cull_idle_timeout = SECONDS_BEFORE_CULLED
OF_VOILA.MappingKernelManager.cull_interval = 30
OF_VOILA.KernelManager.autorestart = (
    False  # a new kernel would know nothing of the page, which would look as if it worked
)
OF_VOILA.KernelManager.transport_encryption = "auto"
OF_VOILA.VoilaConfiguration.kernel_spec_manager_class = own_kernels_only()

OF_VOILA.IdentityProvider.cookie_options = {"samesite": "Lax"}  # other sites' forms do not send it

PIECE = 2**20  # bytes


def _workspace(handler: JupyterHandler, visitor: str) -> Workspace:
    if workspace := Workspace.find(handler.settings["app"], visitor):
        return workspace
    raise tornado.web.HTTPError(404)


def _set_xsrf_cookie(handler: JupyterHandler) -> None:
    """Set the cookie that the page sends back with an upload; tornado takes its options from the settings."""
    is_secure = handler.request.protocol == "https"
    handler.settings["xsrf_cookie_kwargs"] = {"samesite": "Lax"} | ({"secure": True} if is_secure else {})
    handler.xsrf_token  # noqa: B018


def _write_error(handler: JupyterHandler, status_code: int, exc_info: Any = None, **_: Any) -> None:
    error = exc_info[1] if exc_info else None
    reason = in_words(error) if isinstance(error, OSError) else ""
    handler.set_header("Content-Type", "text/html; charset=utf-8")
    handler.finish(html.error(handler, status_code, reason))


def _without_address(record: logging.LogRecord) -> bool:
    """Leave only the error of what tornado logs of a request that failed: its address gives access to everybody who reads it."""
    if str(record.msg).startswith("Uncaught exception"):
        record.msg, record.args = "A request failed", ()
    return True


class Login(LoginFormHandler):
    """The page that asks for the token if it is not in the address."""

    def _render(self, message: dict[str, str] | None = None) -> None:
        _set_xsrf_cookie(self)
        self.finish(html.login(self, message))


class Identity(PasswordIdentityProvider):
    """Jupyter's token and cookie, with the token compared in constant time."""

    def get_user(self, handler: tornado.web.RequestHandler) -> Any:
        # Before any cookie is set. Of several proxies each adds its own word, and tornado heeds the last.
        if re.search(r"\bhttps\b", handler.request.headers.get("X-Forwarded-Proto", ""), re.IGNORECASE):
            handler.request.protocol = "https"
        return super().get_user(handler)

    def get_token(self, handler: tornado.web.RequestHandler) -> str | None:
        return self._if_right(super().get_token(handler))

    def process_login_form(self, handler: tornado.web.RequestHandler) -> Any:
        right = self._if_right(handler.get_argument("password", default=""))
        return self.generate_anonymous_user(handler) if right else None

    def _if_right(self, given: str | None) -> str | None:
        right = secrets.compare_digest((given or "").encode(), str(self.token).encode())
        return str(self.token) if right else None


class Page(TornadoVoilaHandler):
    """The page of a visitor: the one in the address (`session`), or the browser's last one, or a new one."""

    write_error = _write_error

    @tornado.web.authenticated
    async def get(self, path: str | None = None) -> None:
        visitor, run = self.get_argument("session", ""), self.get_argument("run", "")
        settings, cookie = self.settings["app"], f"{self.cookie_name}-session"
        if not visitor or self.get_argument("token", ""):  # the token must not stay in the address
            if not visitor:
                last = (self.get_signed_cookie(cookie) or b"").decode("utf-8", "replace")
                visitor = (Workspace.find(settings, last) or Workspace.new(settings)).visitor
            there = {"session": visitor} | ({"run": run} if run else {})
            self.redirect(f"{self.base_url}?{urlencode(there)}")
            return
        _workspace(self, visitor)  # or 404
        if n_kernels(self.kernel_manager) >= settings.most_pages:
            self.set_status(503)
            self.set_header("Retry-After", str(SECONDS_UNTIL_RETRY))
            self.finish(html.too_many_pages(settings, SECONDS_UNTIL_RETRY))
            return
        secure = self.request.protocol == "https"
        self.set_signed_cookie(cookie, visitor, httponly=True, samesite="Lax", secure=secure, path=self.base_url)
        _set_xsrf_cookie(self)
        self.set_header("Referrer-Policy", "same-origin")
        self.set_header("Content-Security-Policy", PAGE_MAY)
        await super().get()

    def write(self, chunk: str | bytes | dict[str, Any]) -> None:
        super().write(FOREIGN_STYLES.sub("", chunk) if isinstance(chunk, str) else chunk)


@tornado.web.stream_request_body
class Upload(JupyterHandler):
    """POST upload/VISITOR?name=NAME, the file as the body, which is written to disk piece by piece."""

    part: Path | None = None
    received = 0  # bytes
    refusal = "The upload was refused."

    async def prepare(self) -> None:  # type: ignore[override]
        await super().prepare()
        if self._finished or self.request.method != "POST":
            return
        self.workspace = _workspace(self, self.path_args[0])
        length = self.request.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise tornado.web.HTTPError(411)
        self.length = int(length)
        try:
            self.part = self.workspace.begin_upload(self.get_query_argument("name"), self.length)
        except InputError as error:
            self.refusal = str(error)
            raise tornado.web.HTTPError(413) from None
        self.request.connection.set_max_body_size(self.length)  # type: ignore[union-attr]
        self.file = self.part.open("r+b")

    async def data_received(self, chunk: bytes) -> None:
        if self.part is not None:  # otherwise it is only read to its end, so that the browser gets the answer
            await self._on_disk(self.file.write, chunk)
            self.received += len(chunk)

    @tornado.web.authenticated
    async def post(self, visitor: str) -> None:
        await self._on_disk(self.file.close)
        if self.part is None:
            raise tornado.web.HTTPError(507)
        if self.received != self.length:
            raise tornado.web.HTTPError(400)
        name = self.workspace.end_upload(self.part, self.get_query_argument("name")).name
        self.part = None
        self.finish({"name": name})

    async def _on_disk(self, work: Callable[..., Any], *arguments: bytes) -> None:
        try:
            await asyncio.to_thread(work, *arguments)
        except OSError as error:
            self.refusal = f"The disk cannot take the file: {error.strerror}."
            self._drop()

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        self.finish({"message": self.refusal})

    def _drop(self) -> None:
        if self.part is not None:
            with suppress(OSError):
                self.file.close()
            self.part.unlink(missing_ok=True)
            self.part = None

    on_connection_close = on_finish = _drop


def _zipped(members: Mapping[str, Path], file: Path) -> Path:
    """Write files into an archive, as they are: the large ones are compressed already."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, member in members.items():
            archive.write(member, name)
    return file


class Result(JupyterHandler):
    """GET results/VISITOR/RUN/NAME: a file of a run; the report is shown, all others are downloaded."""

    write_error = _write_error

    @tornado.web.authenticated
    async def get(self, visitor: str, run: str, name: str) -> None:
        of_visitor = _workspace(self, visitor).run(run)
        file = of_visitor.files().get(name) if of_visitor else None
        if file is None and of_visitor and (members := of_visitor.archived(name)):
            await self._send_zipped(members, name)
            return
        if file is None:
            raise tornado.web.HTTPError(404)
        await self._send(file)

    async def _send_zipped(self, members: Mapping[str, Path], name: str) -> None:
        with ExitStack() as made:
            try:
                folder = made.enter_context(tempfile.TemporaryDirectory(prefix="jind-nb-zip-"))
                file = await asyncio.to_thread(_zipped, members, Path(folder) / name)
            except OSError:
                raise tornado.web.HTTPError(507) from None
            await self._send(file)

    async def _send(self, file: Path) -> None:
        name = file.name
        shown = name == "report.html" and not self.get_query_argument("download", "")
        self.set_header("Content-Type", "text/html; charset=utf-8" if shown else "application/octet-stream")
        if not shown:
            self.set_header("Content-Disposition", f'attachment; filename="{name}"')
        self.set_header("Content-Security-Policy", REPORT_MAY.format(script_and_hash()[1]))
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Cache-Control", "no-store")
        self.set_header("Content-Length", file.stat().st_size)
        with file.open("rb") as stream:
            while piece := await asyncio.to_thread(stream.read, PIECE):
                self.write(piece)
                await self.flush()


class TemplateFile(TemplateStaticFileHandler):
    """A file of Voila's own template."""

    def parse_url_path(self, url_path: str) -> str:
        if os.path.normpath(url_path) != url_path:  # which Voila takes for another template, or fails on
            raise tornado.web.HTTPError(404)
        return str(super().parse_url_path(url_path))


class Alive(JupyterHandler):
    """GET alive?kernel=ID: whether the page's kernel still works; the page asks it every ten seconds."""

    @tornado.web.authenticated
    async def get(self) -> None:
        self.set_header("Cache-Control", "no-store")
        kernel, kernels = self.get_query_argument("kernel", ""), self.kernel_manager
        if kernel in kernels and not await ensure_async(kernels.is_alive(kernel)):
            await ensure_async(kernels.shutdown_kernel(kernel, now=True))  # its place is free for another page
        self.finish({"kernel": kernel in kernels})


class Logout(JupyterHandler):
    """POST logout?kernel=ID: the page's kernel ends, and the browser forgets the token and its visitor; GET says so."""

    @allow_unauthenticated
    async def post(self) -> None:
        kernel, kernels = self.get_query_argument("kernel", ""), self.kernel_manager
        if self.current_user and kernel in kernels:  # without the cookie the page could not end it any more
            await ensure_async(kernels.shutdown_kernel(kernel, now=True))
        self.identity_provider.clear_login_cookie(self)
        self.clear_cookie(f"{self.cookie_name}-session", path=self.base_url)
        self.finish()

    @allow_unauthenticated
    def get(self) -> None:
        self.finish(html.logged_out(self))


class Server(Voila):
    """Voila with our page at its root."""

    ports: Sequence[int]

    def init_handlers(self) -> list[Any]:
        [*handlers, (root, _, of_page)] = super().init_handlers()
        assert root == url_path_join(self.server_url, r"/(.*)")
        ours = [
            (r"/login", Login),
            (r"/logout", Logout),
            (r"/alive", Alive),
            (r"/upload/([^/]+)", Upload),
            (r"/results/([^/]+)/([^/]+)/([^/]+)", Result),
            (r"/voila/templates/(lab/static/.*)", TemplateFile),
        ]
        return [
            *((url_path_join(self.server_url, path), handler) for path, handler in ours),
            # Without the files of the notebook's folder and of other templates.
            *(handler for handler in handlers if not re.search("/voila/(files|templates)/|/log(in|out)", handler[0])),
            (url_path_join(self.server_url, "/"), Page, of_page),
        ]

    def listen(self) -> None:
        for port in self.ports:
            self.port = port
            try:
                # A proxy says in X-Forwarded-Proto whether the visitor's own connection is encrypted.
                self.app.listen(port, "" if self.ip in EVERYWHERE else self.ip, xheaders=True)
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE or port == self.ports[-1]:
                    reason = error.strerror or error
                    raise InputError(f"--ip {self.ip} --port {port}: {reason}; choose another one.") from None
        host = socket.gethostname() if self.ip in ("0.0.0.0", *EVERYWHERE) else self.ip
        host = f"[{host}]" if ":" in host else host
        query = f"?token={self.token}" if self.token else ""
        address = f"http://{host}:{self.port}{self.base_url}{query}"
        print_line(f"The web page: {plain(address)}\nStop with Ctrl-C; runs continue.")
        self.ioloop = tornado.ioloop.IOLoop.current()
        settings = self.app.settings["app"]
        cleaning = tornado.ioloop.PeriodicCallback(lambda: remove_old(settings), 1000 * SECONDS_BETWEEN_CLEANINGS)
        cleaning.start()
        try:
            with suppress(KeyboardInterrupt):
                self.ioloop.start()
        finally:
            self.stop()


def serve(settings: AppSettings, *, ip: str, ports: Sequence[int], base_url: str, hosts: Sequence[str] = ()) -> None:
    """Serve the page until Ctrl-C or SIGTERM; runs at work continue. Its address is printed once it can be opened.

    Parameters
    ----------
    ports
        The ports to try, one after the other.
    hosts
        Names besides those of this machine by which the page may be asked for if there is no token.

    Raises
    ------
    InputError
        If the folder cannot be made, or none of the ports is free.
    """
    token = settings.has_token
    before = os.umask(0o077)  # uploads and results, those of runs too, are readable by the server's user only
    try:
        with _own_environment():
            secrets_of_folder = _server_secrets(settings.root)
            for part in settings.root.glob(f"*/uploads/.*{PART}"):  # of a server that was killed
                part.unlink()
            remove_old(settings)
            settings.to_environment()
            # It logs addresses, which give access to everybody who reads them.
            logging.getLogger("tornado").setLevel(logging.ERROR)
            logging.getLogger("tornado.application").addFilter(_without_address)
            server = Server(
                config=OF_VOILA,
                config_file_paths=[],
                log_level=logging.ERROR,
                notebook_path=str(shipped("notebooks") / "app.ipynb"),
                ip=ip,
                base_url=base_url,
                token=secrets_of_folder["token"] if token else "",
                cookie_secret=secrets_of_folder["cookie_secret"].encode(),
                identity_provider_class=Identity,
                tornado_settings={
                    "log_function": lambda _: None,  # it would print addresses, too
                    "static_path": DEFAULT_STATIC_FILES_PATH,  # Jupyter's error pages need it
                    "app": settings,
                    # Without a token, a page that somebody visits elsewhere could be made to lead here by its name.
                    "allow_remote_access": token,
                    "local_hostnames": _local_names(ip, hosts),
                },
            )
            answer_addresses_by_name()
            server.ports = ports
            server.initialize([])
            server.start()
    finally:
        os.umask(before)


def _local_names(ip: str, hosts: Sequence[str]) -> list[str]:
    """Return the names by which the page may be asked for if there is no token, in small letters, as browsers send them.

    Raises
    ------
    InputError
        If one of `hosts` is no name, and so never comes.
    """
    if wrong := [host for host in hosts if not re.fullmatch(r"[\w.-]+", host, re.ASCII)]:
        raise InputError(f"--host: found {wrong[0]!r}; give the name alone, such as cells.example.org.")
    # Where other machines are let in, the address that is printed has the machine's name.
    of_machine = [] if is_of_this_machine(ip) else [ip, socket.gethostname()]
    return [name.lower() for name in ("localhost", *of_machine, *hosts)]


@contextmanager
def _own_environment() -> Iterator[None]:
    """Hide the user's settings of Jupyter from the pages' kernels and from Voila, which would take templates from them."""
    before = dict(os.environ)
    with own_folder(short_places()) as folder:
        try:
            ours = own_settings(folder / "settings")
            os.environ.clear()
            os.environ.update(ours)
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def _server_secrets(root: Path) -> dict[str, str]:
    """Return the folder's token and cookie secret, which are kept so that links and cookies outlive a restart."""
    file = root / "server.json"
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not file.exists():
            write_json(file, {"token": secrets.token_urlsafe(32), "cookie_secret": secrets.token_urlsafe(32)})
        known = read_json(file)
        return {name: str(known[name]) for name in ("token", "cookie_secret")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"--folder: {file} cannot be read or written ({error}); choose another folder.") from None
