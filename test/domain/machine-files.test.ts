import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { machineFiles, maxPartBytes } from '../../controller/domain/machine-files.ts';

const key = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGq1';

test('nodes are written as hosts, machinefile and known_hosts, by name', () => {
  assert.deepEqual(
    machineFiles([
      { name: 'n2', cores: 12 },
      { name: 'n1', address: '10.0.0.1', hostKey: `${key} root@n1`, cores: 24 },
      { name: 'n3', address: 'fd00::3', cores: 0 },
    ]),
    [
      {
        hosts: '10.0.0.1 n1\nfd00::3 n3\n',
        machinefile: 'n1 slots=24\nn2 slots=12\nn3 slots=1\n',
        known_hosts: `n1,10.0.0.1 ${key}\n`,
      },
    ],
  );
  assert.deepEqual(machineFiles([]), []);
});

test('an agent cannot write lines of its own', () => {
  const hostile = ['10.0.0.1\n6.6.6.6 login', 'evil.example', '10.0.0.256', '10.0.0', '1.2.3.4.', 'a::b c', ''];
  for (const address of hostile) assert.equal(machineFiles([{ name: 'n', address, cores: 1 }])[0]?.hosts, '', address);
  const keys = [
    `${key}\n* ${key}`,
    `${key} x\ry`,
    `@cert-authority * ${key}`,
    `${key}${'A'.repeat(3000)}`,
    'ssh-dss AAAA',
  ];
  for (const hostKey of keys)
    assert.equal(machineFiles([{ name: 'n', hostKey, cores: 1 }])[0]?.known_hosts, '', hostKey);
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), fc.string({ unit: 'binary' }), (address, hostKey) => {
      const [part] = machineFiles([{ name: 'n', address, hostKey, cores: 1 }]);
      for (const file of Object.values(part ?? {})) assert.ok(file.split('\n').length <= 2);
    }),
  );
});

test('parts stay below their bound and hold every node once', () => {
  const nodes = Array.from({ length: 20_000 }, (_, i) => ({
    name: `n${String(i).padStart(5, '0')}`,
    address: `10.${i >> 16}.${(i >> 8) & 255}.${i & 255}`,
    hostKey: key,
    cores: 12,
  }));
  const parts = machineFiles(nodes);
  assert.equal(parts.length, 3);
  for (const part of parts) assert.ok(Buffer.byteLength(JSON.stringify(part)) < 2 ** 20 && part.hosts !== '');
  for (const part of parts)
    assert.ok(part.hosts.length + part.machinefile.length + part.known_hosts.length <= maxPartBytes);
  const names = parts.flatMap(({ machinefile }) => machinefile.trimEnd().split('\n')).map((line) => line.split(' ')[0]);
  assert.deepEqual(
    names,
    nodes.map(({ name }) => name),
  );
});
