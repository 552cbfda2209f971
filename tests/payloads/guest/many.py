# -*- coding: utf-8 -*-
"""One function with a hundred moods: `event["do"]` names the one to show. Runs on 2.7 and 3.6+."""

import decimal
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time

print(u'loading \u00e9')
calls = []


class Mute(Exception):
    def __str__(self):
        raise ValueError('no text')


class Leaver(Exception):
    def __str__(self):
        sys.exit(3)


class Trap(dict):
    def items(self):
        raise KeyError('trap')

    iteritems = items


def answer(event, context):
    return {'event': event, 'context': context}


def count(event, context):
    calls.append(1)
    return len(calls)


def value(event, context):
    circle = []
    circle.append(circle)
    deep = []
    for _ in range(200000):
        deep = [deep]
    return {
        'decimal': decimal.Decimal('1.5'), 'set': set([1]), 'nan': float('nan'), 'infinity': [float('inf')], 'bytes': b'\xff\xfe',
        'circle': circle, 'deep': deep, 'key': {'a': [{(1, 2): 3}]}, 'surrogate': u'\ud800', 'object': object(), 'huge': 'x' * 70000,
        'keys': {1: 1, None: 2, True: 3, 2.5: 4, 'k': 5}, 'none': None, 'text': [u'\u4e2d', '\xc3\xa9' if str is bytes else u'\u00e9'],
        'trap': Trap(a=1),
    }[event['of']]


def inner(number):
    return 1 / number


def fail(event, context):
    return inner(0)


def chain(event, context):
    try:
        inner(0)
    except ZeroDivisionError:
        raise KeyError('second')


def raise_(event, context):
    raise {
        'mute': Mute(), 'leaver': Leaver(), 'interrupt': KeyboardInterrupt(), 'memory': MemoryError(), 'huge': ValueError('x' * 5000000),
        'control': ValueError('\x01' * 200000), 'surrogate': ValueError(u'\ud800 \u4e2d'), 'bytes': ValueError(b'\xff\xfe'),
        'generator': GeneratorExit(), 'base': BaseException('base'),
    }[event['of']]


def recurse(event, context):
    return recurse(event, context)


def old_style(event, context):
    class Old:
        pass
    raise Old()


def low_limit(event, context):
    def down(depth):
        return down(depth + 1) if depth < 20 else 1 / 0
    sys.setrecursionlimit(70)
    return down(0)


def prints(event, context):
    print(u'caf\u00e9 \u4e2d')
    print('plain', 1)
    sys.stdout.write('no newline')
    sys.stderr.write(u'to stderr \u00e9\n')
    if str is not bytes:
        print('\ud800')
    return 'printed'


def logs(event, context):
    logging.getLogger('some').debug(u'debugged \u00e9')
    logging.info('informed %d', 7)
    return 'logged'


def environment(event, context):
    return [os.environ.get(name) for name in event['names']]


def where(event, context):
    return {'cwd': os.getcwd(), 'path': sys.path[:2], 'argv': sys.argv, 'name': __name__, 'main': sorted(vars(sys.modules['__main__'])),
            'known': sorted(set(sys.modules) & set(['worker', 'zygote', 'hearth_worker', 'hearth_rehearsal']))}


def fork_both_return(event, context):
    child = os.fork()
    if child:
        return {'status': os.waitpid(child, 0)[1]}
    if event.get('raise'):
        raise ValueError('in the child')
    if event.get('exit'):
        sys.exit(5)
    return 'child'


def late_alarm(event, context):
    class Late(Exception if event['of'] == 'exception' else EnvironmentError):
        pass

    def on_alarm(number, frame):
        calls.append('alarm')
        raise Late()
    signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    return 'armed'


def alarms(event, context):
    return calls.count('alarm')


def thread(event, context):
    def run():
        for _ in range(3):
            time.sleep(0.01)
            print('from the thread')
    worker = threading.Thread(target=run)
    worker.daemon = True
    worker.start()
    return 'started'


def break_streams(event, context):
    if event['of'] == 'close':
        sys.stdout.close()
    elif event['of'] == 'replace':
        sys.stdout = None
        sys.stderr = object()
    elif event['of'] == 'delete':
        del sys.stdout
    elif event['of'] == 'descriptors':
        os.close(1)
        os.close(2)
    return 'broken'


def break_json(event, context):
    json.dumps = json.loads = None
    json.JSONEncoder.default = None
    return {'still': 'works'}


def inherited(event, context):
    # The control descriptor must not reach programs that the function starts.
    code = 'import os; print([n for n in range(3, 64) if os.path.exists("/proc/self/fd/%d" % n) and "socket" in os.readlink("/proc/self/fd/%d" % n)])'
    return subprocess.Popen([sys.executable, '-sEc', code], stdout=subprocess.PIPE, close_fds=False).communicate()[0].decode()


def exit_(event, context):
    sys.stdout.write('last words')
    sys.exit({'none': None, 'zero': 0, 'seven': 7, 'text': u'said', 'big': 256 + 9, 'true': True}[event['of']])


def close_all(event, context):
    os.closerange(0, 1001)
    return 'closed'


def close_and_reuse(event, context):
    os.closerange(3, 1001)
    for _ in range(64):
        os.open(event['file'], os.O_RDWR)
    return 'reused'


def die(event, context):
    sys.stdout.write('before\n')
    if event['of'] == 'exit':
        os._exit(9)
    os.kill(os.getpid(), signal.SIGKILL)


def main(event, context):
    return globals()[event['do']](event, context)
