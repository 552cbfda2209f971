# -*- coding: utf-8 -*-
"""What a prepared sandbox loads and calls once before it has a function: a small handler that touches what handlers touch.

Runs on 2.7.5 and 3.6+, like worker.py; formatters keep out.
"""

import json
import logging
import os
import sys


def fail(event):
    try:
        return event['missing'] + 1
    except KeyError:
        raise ValueError(u'expected \u00e9', len(event) / (len(event) - 1))  # é: wide characters have a path of their own in 3.13


def main_handler(event, context):
    if event['do'] == 'raise':
        return fail(event)
    if event['do'] == 'set':
        return set([1])
    sys.stdout.write(u'rehearsal \u00e9 %s\n' % context['request_id'])
    logging.getLogger().info('rehearsal %s', context['function_name'])
    return {'event': json.loads(json.dumps(event)), 'variable': os.environ['HEARTH_REHEARSAL'], 'text': u'\u00e9'}
