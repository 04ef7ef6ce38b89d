/** The pure parts of the bridge fabric: what a layout may say, which marks domains get, what a listing is believed to say. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type BridgeLayout, type BridgePort, checkLayout } from '../../../agent/drivers/fabric/layout.ts';
import { readListing } from '../../../agent/drivers/fabric/listing.ts';
import { assignMarks, isDomain, tableScript } from '../../../agent/drivers/fabric/rules.ts';

const port: BridgePort = {
  name: 'data0',
  role: 'Data',
  kind: 'Ethernet',
  ifname: 'd0',
  address: '52:54:00:00:00:01',
  ipv4: '10.0.0.1',
};
const layoutOf = (...ports: readonly BridgePort[]): BridgeLayout => ({ nodes: new Map([['n0', ports]]) });

test('a layout says all that is wrong with it, at once', () => {
  const wrong = {
    ...layoutOf(
      { ...port, ifname: 'd0"; flush ruleset' },
      { ...port, name: 'data1', ifname: 'd1', address: '53:54:00:00:00:01', ipv4: 'fe80::1' },
      { ...port, name: 'data2', ifname: 'gw', address: '52:54:00:00:00:01' },
    ),
    gateway: { ifname: 'gw', shared: ['10.0.0.0/33'], forbidden: ['fd00::/8'] },
    bootServer: { addresses: ['boot'], tcpPorts: [0], udpPorts: [] },
  };
  assert.throws(
    () => checkLayout(wrong),
    (error: Error) => {
      for (const part of [
        /"d0"; flush ruleset" is no interface name/,
        /"53:54:00:00:00:01" is no unicast MAC address/,
        /"fe80::1" is no IPv4 address or prefix/,
        /MAC address 52:54:00:00:00:01 is that of port data0 of n0/,
        /gw cannot be a node's port and lead to what nodes share/,
        /"10.0.0.0\/33" is no IPv4 prefix/,
        /"fd00::\/8" is no IPv4 prefix \(IPv6 is not forwarded\)/,
        /"boot" is no IPv4 address/,
        /0 is no port number/,
      ]) {
        assert.match(error.message, part);
      }
      return true;
    },
  );
});

test('a domain is a name that can stand in a rule', () => {
  for (const name of ['allocation/0b9c-1', 'group/team.a/b_c', 'quarantine', 'a'.repeat(128)])
    assert.ok(isDomain(name), name);
  for (const name of ['', 'a"b', 'a\nb', 'a b', 'Unknown', 'a'.repeat(129), 'ü'])
    assert.equal(isDomain(name), false, name);
});

test('a mark is never given on in the change in which it becomes free', () => {
  let marks = assignMarks(['allocation/a', 'allocation/b', 'quarantine', 'provisioning'], new Map());
  assert.deepEqual([...marks.values()], [16, 17, 0, 1]);
  marks = assignMarks(['allocation/b', 'allocation/c'], marks);
  assert.deepEqual(
    [...marks],
    [
      ['allocation/b', 17],
      ['allocation/c', 18],
    ],
  );
  marks = assignMarks(['allocation/d'], marks);
  assert.deepEqual([...marks], [['allocation/d', 19]]);
});

test('an empty rack has a table as well', () => {
  assert.match(tableScript('t', layoutOf(), [], new Map(), new Map()), /add table bridge t/);
});

/** A listing as nft prints it: elements of the sets that hold membership. */
function listing(sets: Readonly<Record<string, readonly unknown[]>>): string {
  const items = Object.entries(sets).map(([name, elem]) =>
    name === 'domain' ? { map: { name, elem } } : { set: { name, elem } },
  );
  return JSON.stringify({ nftables: [{ metainfo: {} }, ...items] });
}
const inDomain = (ifname: string, domain: string, mark: number): unknown => [
  { elem: { val: ifname, comment: domain } },
  mark,
];

test('a port is believed to be where all its elements say', () => {
  const whole = {
    domain: [inDomain('d0', 'allocation/a', 16), inDomain('d1', 'quarantine', 0), inDomain('c0', 'provisioning', 1)],
    member: [{ concat: ['d0', 16] }],
    tenant: ['d0'],
    provisioning: ['c0'],
    outward: ['d0'],
    internet: [],
  };
  assert.deepEqual(Object.fromEntries(readListing(listing(whole)).memberships), {
    d0: { domain: 'allocation/a', egress: 'Shared' },
    d1: { domain: 'quarantine', egress: 'None' },
    c0: { domain: 'provisioning', egress: 'None' },
  });
  const torn: [string, object, readonly string[]][] = [
    ['a second membership', { member: [{ concat: ['d0', 16] }, { concat: ['d0', 17] }] }, ['d1', 'c0']],
    ['a membership in quarantine', { member: [{ concat: ['d0', 16] }, { concat: ['d1', 16] }] }, ['d0', 'c0']],
    ['none', { member: [] }, ['d1', 'c0']],
    ['no domain, but a way in', { domain: whole.domain.slice(1) }, []],
    [
      'two names for a mark',
      {
        domain: [...whole.domain, inDomain('d2', 'allocation/z', 16)],
        member: [{ concat: ['d0', 16] }, { concat: ['d2', 16] }],
        tenant: ['d0', 'd2'],
      },
      ['d1', 'c0'],
    ],
    [
      'a tenant under the mark of provisioning',
      { domain: [inDomain('d0', 'allocation/a', 1), ...whole.domain.slice(1)] },
      ['d1', 'c0'],
    ],
    ['provisioning that is not let in', { provisioning: [] }, ['d0', 'd1']],
    ['the Internet without a way out', { outward: [], internet: ['d0'] }, ['d1', 'c0']],
    ['no comment', { domain: [['d0', 16], ...whole.domain.slice(1)] }, []],
    ['a comment that is no domain', { domain: [inDomain('d0', 'a b', 16), ...whole.domain.slice(1)] }, []],
  ];
  for (const [what, change, left] of torn) {
    const { memberships } = readListing(listing({ ...whole, ...change }));
    assert.deepEqual([...memberships.keys()].sort(), [...left].sort(), what);
  }
  assert.throws(() => readListing('{}'), /listed no rules/);
});
