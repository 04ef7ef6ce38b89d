#!/usr/bin/env python3
"""
A fabric plug-in (docs/fabric-plugin.md) over the Linux bridges of the network namespace that it runs in: a port of a machine is a tap, a domain
is the bridge that the tap is in. What it reads back is the kernel's word alone.

  bridge-switch.py FILE DIRECTORY     FILE: {"TAP": {"node": ..., "port": ..., "home": BRIDGE}}, with a home for control ports;
                                      DIRECTORY: where it notes what became of changes
"""
import hashlib
import json
import os
import subprocess
import sys

with open(sys.argv[1]) as file:
    taps = json.load(file)
journal = sys.argv[2]


def ip(*words):
    done = subprocess.run(['ip', *words], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError('ip ' + ' '.join(words) + ': ' + done.stderr.strip())
    return done.stdout


def read_links():
    return {link['ifname']: link for link in json.loads(ip('-json', '-details', 'link', 'show'))}


def domain_of(tap, links):
    link = links[tap]
    if 'UP' not in link['flags']:
        return 'closed'
    master = link.get('master')
    if master is None:
        return 'quarantine' if taps[tap].get('home') is None else 'unmanaged'
    if master == taps[tap].get('home'):
        return 'provisioning'
    return links[master].get('ifalias', 'unmanaged')


def move(tap, domain):
    if domain == 'closed':
        ip('link', 'set', tap, 'down')
        return
    if domain == 'quarantine':
        ip('link', 'set', tap, 'nomaster')
    elif domain == 'provisioning':
        ip('link', 'set', tap, 'master', taps[tap]['home'])
    else:
        bridge = 't' + hashlib.sha256(domain.encode()).hexdigest()[:10]
        if bridge not in read_links():
            ip('link', 'add', bridge, 'type', 'bridge', 'stp_state', '0', 'forward_delay', '0')
            ip('link', 'set', bridge, 'alias', domain)
            ip('link', 'set', bridge, 'up')
        ip('link', 'set', tap, 'master', bridge)
    ip('link', 'set', tap, 'up')


def change(call):
    if call['egress'] != 'None':
        return {'status': 'Error', 'error': 'nothing leads out of these bridges'}
    try:
        for tap, cable in taps.items():
            if cable['node'] == call['node'] and cable['port'] in call['ports']:
                move(tap, call['domain'])
        return {'status': 'Done'}
    except (RuntimeError, KeyError) as error:
        return {'status': 'Error', 'error': str(error)}


call = json.loads(sys.stdin.readline())
if call['op'] == 'ports':
    links = read_links()
    answer = {
        'ports': [
            {'node': cable['node'], 'port': cable['port'], 'domain': domain_of(tap, links), 'egress': 'None'}
            for tap, cable in taps.items()
            if tap in links
        ]
    }
else:
    note = os.path.join(journal, hashlib.sha256(call['id'].encode()).hexdigest())
    if call['op'] == 'change' and not os.path.exists(note):
        outcome = change(call)
        with open(note + '.new', 'w') as file:
            json.dump(outcome, file)
        os.replace(note + '.new', note)
    if os.path.exists(note):
        with open(note) as file:
            answer = json.load(file)
    else:
        answer = {'status': 'Unknown'}
json.dump(answer, sys.stdout)
