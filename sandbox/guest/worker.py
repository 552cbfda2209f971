"""The program inside a sandbox: serves one Python function over one stream socket.

It runs on the guest's side only, on the image's own interpreter, either imported by a zygote and reached by fork, or
started as `python worker.py <fd>`. It owns the control descriptor, and nothing else; frames are those of sandbox/protocol.py:

    host                                        worker
      <- {"op": "hello", "protocol", "python", "pid"}
      -> {"op": "load", "handler", "environment", "context", "limits", "code_root"}
      <- {"op": "loaded"} | {"op": "load_failed", "code", "message", "trace"}
      -> {"op": "invoke", "id"[, "context"]} + event          (any number of times; what is in its context wins over load's)
      <- {"op": "result", "id"} + return value | {"op": "failed", "id", "code", "message", "trace"}

It leaves with 0 at end of file, 70 when what came is no frame, 71 when the descriptor is gone, and with the
function's own status when that calls sys.exit.

One file, standard library only, unchanged on 2.7.5 and on 3.6 and later. Hence: no unicode_literals (2.7.5's struct refuses
unicode formats), no annotations, no trailing comma after *args, EINTR retried by hand, and formatters keep out.
"""

import errno
import fcntl
import io
import json
import logging
import os
import re
import struct
import sys
import time
import traceback

PROTOCOL = 1
EXIT_BAD_FRAME = 70
EXIT_LINK_LOST = 71

#: The modules an interpreter has that serves by exec. What a zygote preloads beyond them must not hide the function's own
#: files, so a zygote imports this file before its preloads.
BASELINE = frozenset(sys.modules)

_PY2 = sys.version_info[0] == 2
_HEADER = struct.Struct('!II')
_MAX_HEAD_BYTES = 256 * 1024
_MAX_BODY_BYTES = 1 << 30
_MAX_TRACE_BYTES = 64 * 1024
_MAX_MESSAGE_BYTES = 4096
_MIN_RECURSION = 200
_TITLE = 'Traceback (most recent call last):\n'
_LOG_FORMAT = '%(asctime)s %(levelname)s %(message)s'
_LAYER_ROOTS = ('/opt', '/opt/python')

_text = type(u'')
_KEY_TYPES = (str, _text, int, type(1 << 64), float, type(None))
# A surrogate in UTF-8. Python 2.7 writes and reads them; orjson and Python 3 refuse them.
_SURROGATE = re.compile(b'\xed[\xa0-\xbf][\x80-\xbf]')

# Kept alive here: Python 2.7 empties the globals of a module that nobody refers to.
_KEPT = [sys.modules[__name__]]
_DIRECTORY = os.path.dirname(os.path.abspath(__file__))
_streams = []
_log_handlers = []

# 3.5 and later; before, exceptions have no chains to follow.
_Report = getattr(traceback, 'TracebackException', None)


class _NotJson(Exception):
    """The return value can't be written as JSON; the text says why."""


class _LoadFailed(Exception):
    """There is no handler to call: code, message and the user's trace."""

    def __init__(self, code, message, trace=u''):
        Exception.__init__(self, message)
        self.code, self.message, self.trace = code, message, trace


def _refuse(value):
    raise _NotJson('%s is not serializable' % type(value).__name__)


def _make_encoder():
    options = {'ensure_ascii': False, 'allow_nan': False, 'default': _refuse}
    if _PY2:
        # Any spelling but 'utf-8' makes 2.7 decode each str, so that str and unicode may be mixed.
        options['encoding'] = 'utf8'
    return json.JSONEncoder(**options)


# Taken once: what the user's code does to the json module's functions does not reach the reply.
_encode_value = _make_encoder().encode
_encode_head = json.JSONEncoder().encode
_decode = json.JSONDecoder().decode
# The same for what the link lives on: without os.read the loop that waits for the next frame would spin.
_os_read, _os_write, _os_exit, _os_fstat, _os_getpid = os.read, os.write, os._exit, os.fstat, os.getpid


# ---- text ----------------------------------------------------------------------------------------------------------


def _utf8(text):
    """`text` (str or unicode, whatever it holds) as UTF-8 that every decoder takes."""
    if isinstance(text, bytes):
        text = text.decode('utf-8', 'replace')
    return _SURROGATE.sub(b'?', text.encode('utf-8', 'backslashreplace'))


def _native(text):
    """`text` as the `str` of this Python."""
    return _utf8(text) if _PY2 else text


def _cut(text, limit_bytes):
    """`text` as clean unicode; the middle is left out, with a line that says so, where it is longer than the limit."""
    raw = _utf8(text)
    if len(raw) <= limit_bytes:
        return raw.decode('utf-8')
    half = limit_bytes // 2
    left_out = u'\n... %d bytes left out ...\n' % (len(raw) - 2 * half)
    return raw[:half].decode('utf-8', 'ignore') + left_out + raw[-half:].decode('utf-8', 'ignore')


# ---- frames --------------------------------------------------------------------------------------------------------


def _flush():
    """Write out what the function printed, whatever it did to its streams."""
    streams = list(_streams)
    for stream in (getattr(sys, 'stdout', None), getattr(sys, 'stderr', None)):
        for ours in _streams:
            if stream is ours:
                break
        else:
            streams.append(stream)  # the function's own, beside ours, which it may have kept
    for stream in streams:
        try:
            stream.flush()
        except:  # noqa: E722 - closed, replaced, or anything else: it is the user's object
            continue


def _leave(status):
    _flush()
    _os_exit(status)


def _exit_as(code):
    """End the process as `sys.exit(code)` does: None is 0, a number itself, anything else is printed and 1."""
    status = 1
    try:
        if code is None:
            status = 0
        elif isinstance(code, (int, type(1 << 64))):
            status = int(code) & 0xFF
        else:
            sys.stderr.write('%s\n' % (code,))
    finally:
        _leave(status)


class _Link(object):
    """One descriptor that carries frames; ends the process when it can't go on."""

    def __init__(self, fd):
        self._fd = fd
        self._pending = b''
        self._identity = self._identify()

    def _identify(self):
        status = _os_fstat(self._fd)
        return status.st_dev, status.st_ino

    def receive(self):
        """The next frame as (head, body)."""
        self._fill(_HEADER.size)
        head_size, body_size = _HEADER.unpack(self._pending[:_HEADER.size])
        if head_size > _MAX_HEAD_BYTES or body_size > _MAX_BODY_BYTES:
            _leave(EXIT_BAD_FRAME)
        middle = _HEADER.size + head_size
        end = middle + body_size
        self._fill(end)
        data, self._pending = self._pending, self._pending[end:]
        try:
            head = _decode(data[_HEADER.size:middle].decode('utf-8'))
        except (ValueError, RuntimeError):
            head = None
        if not isinstance(head, dict):
            _leave(EXIT_BAD_FRAME)
        return head, data[middle:end]

    def send(self, head, body=b''):
        """Write one frame. A user's signal handler that raises here leaves unknown how much was written: that ends it."""
        raw = _encode_head(head).encode('ascii')
        data = memoryview(_HEADER.pack(len(raw), len(body)) + raw + body)
        sent = 0
        try:
            # The function may have closed the descriptor, and a file of its own may have the number now.
            if self._identify() != self._identity:
                _leave(EXIT_LINK_LOST)
            while sent < len(data):
                sent += self._write(data[sent:])
        except:  # noqa: E722
            _leave(EXIT_LINK_LOST)

    def _fill(self, size):
        """Read until `size` bytes are pending."""
        have = len(self._pending)
        if have >= size:
            return
        chunks = [self._pending]
        while have < size:
            chunk = self._read(min(max(size - have, 65536), 1 << 20))
            if not chunk:
                _leave(0)
            chunks.append(chunk)
            have += len(chunk)
        self._pending = b''.join(chunks)

    def _read(self, size):
        while True:
            try:
                return _os_read(self._fd, size)
            except SystemExit as leaving:
                _exit_as(leaving.code)
            except EnvironmentError as error:
                # No number: a TimeoutError from the user's own signal handler, late.
                if error.errno not in (None, errno.EINTR):
                    _leave(EXIT_LINK_LOST)
            except:  # noqa: E722 - a late signal handler again; the interrupted read took no byte
                continue

    def _write(self, data):
        try:
            return _os_write(self._fd, data)
        except EnvironmentError as error:
            if error.errno != errno.EINTR:
                raise
            return 0


# ---- failures ------------------------------------------------------------------------------------------------------


def _is_ours(filename):
    return filename == _is_ours.__code__.co_filename or filename.startswith('<frozen importlib')


def _drop_our_frames(report):
    """Take this file's frames out of a TracebackException and of everything chained to it."""
    waiting, seen = [report], set()
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        one.stack[:] = [frame for frame in one.stack if not _is_ours(frame.filename)]
        waiting += [one.__cause__, one.__context__]
        waiting += getattr(one, 'exceptions', None) or []


def _format(kind, value, frames):
    if _Report is not None:
        report = _Report(kind, value, frames)
        _drop_our_frames(report)
        text = ''.join(report.format())
        # Python leaves the line out where no frame is left, as when the user's file does not parse.
        return text if _TITLE in text else _TITLE + text
    lines = [_TITLE]
    lines += traceback.format_list([frame for frame in traceback.extract_tb(frames) if not _is_ours(frame[0])])
    lines += traceback.format_exception_only(kind, value)
    return b''.join(_utf8(line) for line in lines)


def _format_plainly(kind, frames):
    """The same without the exception's text and without source lines: nothing of the user's runs."""
    lines = [_TITLE.rstrip()]
    while frames is not None:
        code = frames.tb_frame.f_code
        if not _is_ours(code.co_filename):
            lines.append(u'  File "%s", line %d, in %s' % (code.co_filename, frames.tb_lineno, code.co_name))
        frames = frames.tb_next
    return u'\n'.join(lines + [u'%s\n' % getattr(kind, '__name__', 'exception')])


def _trace(kind, value, frames):
    """The traceback as the user would see it without us, at most _MAX_TRACE_BYTES of it."""
    try:
        text = _cut(_format(kind, value, frames), _MAX_TRACE_BYTES)
    except:  # noqa: E722 - an exception whose __str__ exits, no memory, a chain too deep to follow
        text = _cut(_format_plainly(kind, frames), _MAX_TRACE_BYTES)
    if len(_encode_head(text)) > 2 * _MAX_TRACE_BYTES:
        # Control characters take six bytes each in JSON, and the head has its own limit.
        text = _cut(text, _MAX_TRACE_BYTES // 4)
    return text


def _summary(kind, value):
    """One line: the exception's class and text."""
    try:
        return _cut(traceback.format_exception_only(kind, value)[-1].strip(), _MAX_MESSAGE_BYTES)
    except:  # noqa: E722
        return _cut(getattr(kind, '__name__', 'exception'), _MAX_MESSAGE_BYTES)


def _failed(request_id, code, message, trace=u''):
    return {
        'op': 'failed', 'id': request_id, 'code': code, 'message': _cut(message, _MAX_MESSAGE_BYTES), 'trace': trace,
    }, b''


# ---- JSON ----------------------------------------------------------------------------------------------------------


def _is_recursion(error):
    # RecursionError came with 3.5; before, it was a RuntimeError with this text.
    return type(error).__name__ == 'RecursionError' or 'recursion depth' in str(error)


def _bad_key(value):
    """The type name of a dict key that JSON has no form for, or None."""
    waiting, seen = [value], set()
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            for key in item:
                if not isinstance(key, _KEY_TYPES):
                    return type(key).__name__
            waiting.extend(item.values())
        elif isinstance(item, (list, tuple)):
            waiting.extend(item)
    return None


def _value_error_text(error):
    if isinstance(error, UnicodeDecodeError):
        return 'str is not UTF-8 text'
    text = str(error)
    if text.startswith('Circular'):
        return 'it contains itself'
    if text.startswith('Out of range float'):
        return 'NaN and Infinity are not serializable'
    return text


def _encode(value):
    """The function's return value as JSON text in UTF-8; raises _NotJson, or what the user's own classes raise."""
    try:
        text = _encode_value(value)
    except ValueError as error:
        raise _NotJson(_value_error_text(error))
    except TypeError:
        key = _bad_key(value)
        if key is None:
            raise
        raise _NotJson('keys must be str, int, float, bool or None, not %s' % key)
    except RuntimeError as error:
        if not _is_recursion(error):
            raise
        raise _NotJson('it is nested too deeply')
    try:
        raw = text.encode('utf-8')
    except UnicodeEncodeError:
        raise _NotJson('str holds a lone surrogate')
    if _PY2 and _SURROGATE.search(raw):
        raise _NotJson('str holds a lone surrogate')
    return raw


# ---- loading -------------------------------------------------------------------------------------------------------


def _set_environment(key, value):
    """os.environ[key] = value in UTF-8, whatever this process's locale is."""
    getattr(os, 'environb', os.environ)[_utf8(key)] = _utf8(value)


def _copy_environ(environ):
    """SCF's `K=v;K2=v2` of a call's context into os.environ, as the original bootstrap does before each call."""
    for pair in environ.split(';'):
        key, equals, value = pair.partition('=')
        try:
            if key and equals:
                _set_environment(key, value)
        except (ValueError, TypeError, EnvironmentError):  # a NUL in it, by the version
            continue


def _split_handler(handler):
    """`pkg/index.main` as (['pkg', 'index'], 'main')."""
    path, _, function = _native(handler).rpartition('.')
    steps = [step for step in path.split('/') if step not in ('', '.')]
    parts = [part for step in steps for part in step.split('.')]
    if not function or not parts or '' in parts:
        raise _LoadFailed('handler_not_found', u'handler "%s" is not of the form file.function' % handler)
    return parts, function


def _is_package(path):
    return os.path.isfile(os.path.join(path, '__init__.py')) or os.path.isfile(os.path.join(path, '__init__.pyc'))


def _has_module(root, parts):
    base = os.path.join(root, *parts)
    if os.path.isfile(base + '.py') or os.path.isfile(base + '.pyc') or _is_package(base):
        return True
    folder, name = os.path.split(base)
    try:
        return any(entry.startswith(name + '.') and entry.endswith('.so') for entry in os.listdir(folder))
    except EnvironmentError:
        return False


def _forget(name):
    for known in [known for known in sys.modules if known == name or known.startswith(name + '.')]:
        _KEPT.append(sys.modules.pop(known))


def _forget_shadowed(roots, handler_name):
    """Drop preloaded modules that the function brings its own version of, as if nothing had been preloaded."""
    if handler_name in sys.modules and handler_name not in sys.builtin_module_names:
        _forget(handler_name)
    for root in roots:
        try:
            entries = os.listdir(root)
        except EnvironmentError:
            continue
        for entry in entries:
            name, _, suffix = entry.partition('.')
            if name in sys.modules and name not in BASELINE and name != handler_name:
                if suffix.endswith(('py', 'pyc', 'so')) or _is_package(os.path.join(root, entry)):
                    _forget(name)


def _set_path(code_root):
    """Put the code and the layers in front of sys.path; give back their directories."""
    roots = [code_root, _LAYER_ROOTS[0]] + [root for root in _LAYER_ROOTS[1:] if os.path.isdir(root)]
    sys.path[:] = roots + [entry for entry in sys.path if entry and entry not in roots and entry != _DIRECTORY]
    # A finder made before the code was attached would not see it. importlib.invalidate_caches adds nothing to this, and from 3.10
    # on it imports importlib.metadata.
    for entry in list(sys.path_importer_cache):
        if entry.startswith(tuple(roots)):
            sys.path_importer_cache.pop(entry, None)
    return roots


def _make_parents(root, parts):
    """2.7 has no namespace packages: stand-ins for directories without __init__.py."""
    for depth in range(1, len(parts)):
        name, path = '.'.join(parts[:depth]), os.path.join(root, *parts[:depth])
        if name not in sys.modules and not _is_package(path):
            sys.modules[name] = type(sys)(name)
            sys.modules[name].__path__ = [path]


def _import_handler(code_root, handler):
    """Import the handler's module and find its function; raises _LoadFailed."""
    parts, function = _split_handler(handler)
    roots = _set_path(code_root)
    found = [root for root in roots if _has_module(root, parts)]
    if not found:
        raise _LoadFailed('handler_not_found', u'handler file "%s.py" is not there' % u'/'.join(map(_cut_name, parts)))
    _forget_shadowed(roots, parts[0])
    _direct_sdk()
    if _PY2:
        _make_parents(found[0], parts)
    name = '.'.join(parts)
    try:
        __import__(name)
        target = getattr(sys.modules[name], function, None)
    except:  # noqa: E722 - SystemExit and KeyboardInterrupt are failures of the module, too
        raise _LoadFailed('user_code_error', _summary(*sys.exc_info()[:2]), _trace(*sys.exc_info()))
    if not callable(target):
        problem = u'has no function' if target is None else u'has something that is no function under the name'
        raise _LoadFailed('handler_not_found', u'"%s.py" %s "%s"' % (u'/'.join(map(_cut_name, parts)), problem, _cut_name(function)))
    return target


def _cut_name(name):
    return _cut(name, 256)


# ---- the original service's SDK ------------------------------------------------------------------------------------

_SDK_CLIENT = 'tencentcloud.common.abstract_client'
_COS_CLIENT = 'qcloud_cos.cos_client'
# Where SCF is at Tencent: for everybody, for its own networks (tencentserverless names that one), for a region.
_SCF_AT_TENCENT = re.compile(r'(?:https?://)?scf\.(?:[a-z0-9-]+\.)*tencentcloudapi\.(?:com|cn|com\.cn)/?$')


def _clone(thing):
    # By hand: `copy` may be a file of the function's.
    new = thing.__class__.__new__(thing.__class__)
    new.__dict__.update(thing.__dict__)
    return new


def _aimed(client, profile, make_profile):
    """The profile for a client of the service `scf` that names no endpoint of its own: one that leads here. Any other as it is."""
    endpoint, protocol = os.environ.get('TENCENTCLOUD_SCF_ENDPOINT'), os.environ.get('TENCENTCLOUD_SCF_PROTOCOL', 'http')
    service = getattr(client, '_service', '') or getattr(client, '_endpoint', '').partition('.')[0]
    if not endpoint or service != 'scf':
        return profile
    profile = make_profile() if profile is None else profile
    named = profile.httpProfile.endpoint
    if named and not _SCF_AT_TENCENT.match(named):
        return profile
    # Copies: the same profile may serve other services.
    profile = _clone(profile)
    profile.httpProfile = _clone(profile.httpProfile)
    profile.httpProfile.endpoint = endpoint
    profile.httpProfile.protocol = profile.httpProfile.scheme = protocol
    return profile


def _aim(module):
    """Make the SDK's clients ask `_aimed` once, when they are made."""
    client, make_profile = getattr(module, 'AbstractClient', None), getattr(module, 'ClientProfile', None)
    init = getattr(client, '__dict__', {}).get('__init__')
    if init is None or make_profile is None:
        return  # none that we know: it goes where its makers meant it to go

    def __init__(self, credential, region, profile=None, *args, **kwargs):
        init(self, credential, region, _aimed(self, profile, make_profile), *args, **kwargs)

    __init__.__doc__ = init.__doc__
    client.__init__ = __init__


def _lead_to_buckets(config):
    """A configuration with this sandbox's own credentials, which are good here alone, goes to the host's bucket service, unless the code
    names a domain, an address or a proxy. It goes as to a proxy: host names and with them signatures stay those of COS."""
    endpoint, own = os.environ.get('TENCENTCLOUD_COS_ENDPOINT'), os.environ.get('TENCENTCLOUD_SECRETID')
    known = vars(config)
    given = known.get('_secret_id') or getattr(known.get('_credential_inst'), 'secret_id', None)
    if not endpoint or not own or given != own or any(known.get(name) for name in ('_domain', '_ip', '_proxies')):
        return
    config._scheme = u'http'
    config._proxies = {'http': 'http://' + endpoint}


def _aim_cos(module):
    """Make configurations of the COS SDK ask `_lead_to_buckets` once, when they are made."""
    config = getattr(module, 'CosConfig', None)
    init = getattr(config, '__dict__', {}).get('__init__')
    if init is None:
        return

    def __init__(self, *args, **kwargs):
        init(self, *args, **kwargs)
        _lead_to_buckets(self)

    __init__.__doc__ = init.__doc__
    config.__init__ = __init__


# Module -> (the variable that says where it shall lead, how it is led there).
_SDKS = {_SDK_CLIENT: ('TENCENTCLOUD_SCF_ENDPOINT', _aim), _COS_CLIENT: ('TENCENTCLOUD_COS_ENDPOINT', _aim_cos)}


class _SdkLoader(object):
    """Python 3: the module's own loader, and behind it `_aim` or `_aim_cos`."""

    def __init__(self, loader, aim):
        self._loader = loader
        self._aim = aim

    def create_module(self, spec):
        create = getattr(self._loader, 'create_module', None)
        return None if create is None else create(spec)

    def exec_module(self, module):
        module.__loader__ = module.__spec__.loader = self._loader  # whoever asks later finds what would have been there
        self._loader.exec_module(module)
        self._aim(module)


class _SdkFinder(object):
    """In front of sys.meta_path, finds the SDKs' modules in the way in which the others do. `aims`: name -> function."""

    def __init__(self, aims):
        self._aims = aims
        self._importing = set()

    def find_spec(self, name, path=None, target=None):
        if name not in self._aims:
            return None
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, 'find_spec', None)
            spec = None if find is None else find(name, path, target)
            if spec is not None:
                if hasattr(spec.loader, 'exec_module'):
                    spec.loader = _SdkLoader(spec.loader, self._aims[name])
                return spec
        return None

    def find_module(self, name, path=None):  # 2.7
        return self if name in self._aims and _PY2 and name not in self._importing else None

    def load_module(self, name):
        self._importing.add(name)
        try:
            __import__(name)
        finally:
            self._importing.discard(name)
        self._aims[name](sys.modules[name])
        return sys.modules[name]


def _direct_sdk():
    """Lead clients of the service `scf` of tencentcloud's SDK and the COS SDK's, whichever version the function imports, to the endpoints
    that the host named in the environment. HEARTH_SDK_ENDPOINT=off leaves them as they are."""
    aims = dict((name, aim) for name, (variable, aim) in _SDKS.items() if os.environ.get(variable))
    if not aims or os.environ.get('HEARTH_SDK_ENDPOINT') == 'off':
        return
    for name in aims:
        if name in sys.modules:  # preloaded
            aims[name](sys.modules[name])
    sys.meta_path.insert(0, _SdkFinder(aims))


# ---- one function --------------------------------------------------------------------------------------------------


class _Worker(object):
    """The function that was loaded, and the answers to what the host asks."""

    def __init__(self):
        self._handler = None
        self._context = {}
        self._reply_bytes = 6 * 1024 * 1024
        self._pid = _os_getpid()

    def answer(self, head, body):
        """(head, body) of the reply to one frame."""
        op = head.get('op')
        if op == 'load' and self._handler is None:
            reply = self._load(head), b''
        elif op == 'invoke' and self._handler is not None:
            reply = self._invoke(head, body)
        else:
            _leave(EXIT_BAD_FRAME)
        self._end_strays(reply[0])
        return reply

    def _end_strays(self, head):
        """A child that the function forked and that came back here must not answer as well."""
        if _os_getpid() == self._pid:
            return
        trace = head.get('trace')
        if trace:
            sys.stderr.write(_native(trace))
        _leave(1 if trace else 0)

    def _load(self, head):
        try:
            code_root, environment, handler = _native(head['code_root']), dict(head['environment']), head['handler']
            self._context = dict(head.get('context') or {})
            self._reply_bytes = int(head['limits']['reply_bytes'])
        except (KeyError, TypeError, ValueError, AttributeError):
            _leave(EXIT_BAD_FRAME)
        try:
            for key, value in environment.items():
                _set_environment(key, value)
            if 'TZ' in environment:
                time.tzset()
            os.chdir(code_root)
            self._handler = _import_handler(code_root, handler)
        except _LoadFailed as failure:
            return {
                'op': 'load_failed', 'code': failure.code, 'message': _cut(failure.message, _MAX_MESSAGE_BYTES), 'trace': failure.trace,
            }
        except EnvironmentError as error:
            message = u'code directory: %s' % _cut(os.strerror(error.errno or 0), _MAX_MESSAGE_BYTES)
            return {'op': 'load_failed', 'code': 'handler_not_found', 'message': message, 'trace': u''}
        return {'op': 'loaded'}

    def _invoke(self, head, body):
        request_id = head.get('id')
        try:
            event = _decode(body.decode('utf-8'))
        except (ValueError, RuntimeError, MemoryError) as error:
            reason = u'it is nested too deeply' if _is_recursion(error) else _cut(str(error), _MAX_MESSAGE_BYTES)
            return _failed(request_id, 'event_invalid', u'event is not JSON: %s' % reason)
        try:
            context = dict(self._context, request_id=request_id)  # a new one for each call: the function may change what it is given
            context.update(head.get('context') or {})
            return self._call(request_id, event, context)
        except:  # noqa: E722 - a signal handler of the user raised while the answer was made
            return _failed(request_id, 'handler_error', u'user code exception caught')

    def _call(self, request_id, event, context):
        try:
            _copy_environ(context.get('environ') or u'')
            raw = _encode(self._handler(event, context))
        except SystemExit as leaving:
            _exit_as(leaving.code)
        except _NotJson as error:
            return _failed(request_id, 'handler_error', 'return value is not JSON: %s' % error)
        except:  # noqa: E722 - whatever a function may raise; in 2.7 also instances of old-style classes
            if sys.getrecursionlimit() < _MIN_RECURSION:
                sys.setrecursionlimit(_MIN_RECURSION)
            return _failed(request_id, 'handler_error', u'user code exception caught', _trace(*sys.exc_info()))
        if len(raw) > self._reply_bytes:
            return _failed(request_id, 'reply_too_large', u'return value of %d bytes, limit %d' % (len(raw), self._reply_bytes))
        return {'op': 'result', 'id': request_id}, raw


# ---- streams -------------------------------------------------------------------------------------------------------


class _MixedStream(object):
    """sys.stdout for 2.7, whose print hands over str and unicode alike: UTF-8 out, written at each line's end."""

    encoding = 'UTF-8'  # print passes unicode on as it is only to a stream that has this
    errors = 'backslashreplace'
    mode = 'w'

    def __init__(self, raw):
        self._raw = raw
        self.softspace = 0

    def write(self, text):
        if isinstance(text, _text):
            text = text.encode('utf-8')
        self._raw.write(text)
        if b'\n' in text:
            self._raw.flush()

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def __getattr__(self, name):
        return getattr(self._raw, name)


def _open_stream(fd):
    # closefd=False: a stream that the function drops or closes must not take the descriptor along.
    if _PY2:
        return _MixedStream(io.open(fd, 'wb', closefd=False))
    return io.open(fd, 'w', buffering=1, encoding='utf-8', errors='backslashreplace', newline='\n', closefd=False)


def _log_to_stdout():
    """As SCF: the root logger takes everything and writes to stdout. A handler that is there already is left alone."""
    root = logging.getLogger()
    for handler in _log_handlers:
        root.removeHandler(handler)
    del _log_handlers[:]
    if root.handlers:
        return
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter(_LOG_FORMAT))
    _log_handlers.append(handler)
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)


def prepare_streams():
    """Make stdout and stderr (descriptors 1 and 2) line-buffered UTF-8 that never raises, and let logging write there.

    Callable any number of times, before or after a fork. A descriptor that is closed leaves its stream as it was.
    """
    _flush()
    del _streams[:]
    for fd, name in ((1, 'stdout'), (2, 'stderr')):
        try:
            stream = _open_stream(fd)
        except EnvironmentError:
            continue
        _streams.append(stream)
        setattr(sys, name, stream)
        setattr(sys, '__%s__' % name, stream)
    _log_to_stdout()


# ---- after a fork --------------------------------------------------------------------------------------------------


def reseed():
    """Give this process random numbers of its own after a fork, for the generators that are loaded and don't see to it themselves."""
    names = ['numpy.random']
    if sys.version_info < (3, 7):
        names.append('random')
    for name in names:
        module = sys.modules.get(name)
        if module is not None:
            module.seed()
    # OpenSSL before 1.1.1 tells forks apart by pid, and that is the same in every sandbox.
    ssl = sys.modules.get('ssl')
    if ssl is not None and ssl.OPENSSL_VERSION_INFO < (1, 1, 1):
        ssl.RAND_add(os.urandom(32), 32.0)


def _through_pipe(head, body):
    """One frame out and in again, by the code that serves."""
    reading, writing = os.pipe()
    try:
        _Link(writing).send(head, body)
        return _Link(reading).receive()
    finally:
        os.close(writing)
        os.close(reading)


def _rehearsal_frames(root):
    yield 'loaded', {
        'op': 'load', 'handler': 'hearth_rehearsal.main_handler', 'code_root': root,
        'environment': {'HEARTH_REHEARSAL': u'\u00e9'}, 'limits': {'reply_bytes': 65536},
        'context': {'environ': u'HEARTH_REHEARSAL=2', 'function_name': u'rehearsal'},
    }, b''
    invoke = {'op': 'invoke', 'id': '0'}
    yield 'result', invoke, b'{"do": "answer", "of": [1, 2.5, null, true]}'
    yield 'failed', invoke, b'{"do": "raise"}'
    yield 'failed', invoke, b'{"do": "set"}'


def _rehearse_on(root):
    worker = _Worker()
    for expected, head, body in _rehearsal_frames(root):
        reply, _ = _through_pipe(*worker.answer(*_through_pipe(head, body)))
        _flush()
        if reply['op'] != expected:
            raise RuntimeError('rehearsal: %s instead of %s: %s' % (reply['op'], expected, reply.get('message')))


def _working_directory():
    try:
        return os.getcwd()
    except EnvironmentError:
        return '/'


def rehearse(root):
    """Load and call the dummy in directory `root` once, and leave no trace of it: no output, module, path or variable.

    It pays copy-on-write faults and lazy imports before there is a function. RuntimeError when an answer is not the expected one.
    """
    path, directory, finders = list(sys.path), _working_directory(), set(sys.path_importer_cache)
    _flush()
    saved = [os.dup(1), os.dup(2)]
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os.close(null)
        _rehearse_on(root)
    finally:
        _flush()
        for fd, kept in ((1, saved[0]), (2, saved[1])):
            os.dup2(kept, fd)
            os.close(kept)
        sys.modules.pop('hearth_rehearsal', None)
        sys.path[:] = path
        os.environ.pop('HEARTH_REHEARSAL', None)
        os.chdir(directory)
        for entry in set(sys.path_importer_cache) - finders:
            sys.path_importer_cache.pop(entry, None)


# ---- serving -------------------------------------------------------------------------------------------------------


def find_ours():
    """Names of the loaded modules that are ours. A zygote looks once: to look at every module is to copy its page after a fork."""
    names = []
    for name, module in list(sys.modules.items()):
        path = getattr(module, '__dict__', {}).get('__file__')
        if module is _KEPT[0] or (isinstance(path, str) and os.path.dirname(path) == _DIRECTORY):
            names.append(name)
    return names


def _hide(names):
    """Take our modules out of the user's sight: a function may well have a worker.py of its own."""
    for name in names + ['__main__']:
        module = sys.modules.pop(name, None)
        if module is not None:
            _KEPT.append(module)
    sys.modules['__main__'] = type(sys)('__main__')
    sys.argv = ['']


def _own(fd):
    """Blocking, and not for the programs that the function starts."""
    fcntl.fcntl(fd, fcntl.F_SETFD, fcntl.fcntl(fd, fcntl.F_GETFD) | fcntl.FD_CLOEXEC)
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_NONBLOCK)


def serve(fd, ours=None):
    """Answer frames on stream socket `fd` until its end; never returns. `ours` is what `find_ours` found, where it was asked before."""
    try:
        _hide(find_ours() if ours is None else ours)
        _own(fd)
        link, worker = _Link(fd), _Worker()
        link.send({'op': 'hello', 'protocol': PROTOCOL, 'python': '%d.%d.%d' % sys.version_info[:3], 'pid': os.getpid()})
        while True:
            reply, body = worker.answer(*link.receive())
            _flush()
            link.send(reply, body)
            del reply, body
    except:  # noqa: E722 - no traceback of ours in the user's log
        _leave(EXIT_LINK_LOST)


if __name__ == '__main__':
    prepare_streams()
    serve(int(sys.argv[1]))
