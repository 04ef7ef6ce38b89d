/** `agent enrol`, `agent enrolled` and `trusted-image measure` as a person uses them. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { stringify } from 'yaml';
import { run } from './program.ts';

const scratch = mkdtempSync(join(tmpdir(), 'bitvisor-enrol-'));
after(() => rmSync(scratch, { recursive: true, force: true }));

function configuration(attestation?: object): string {
  const path = join(scratch, 'rack.yaml');
  const trusted = { kernel: 'k', initrd: 'i', unified: 'u' };
  writeFileSync(
    path,
    stringify({
      dataDir: 'data',
      tls: { ca: 'ca', certificate: 'c', key: 'k' },
      drivers: 'qemu',
      qemu: { trusted, ...(attestation === undefined ? {} : { attestation }) },
      racks: [{ name: 'r0', site: 's', rack: 'r0', nodes: 'n[0-2]' }],
    }),
  );
  return path;
}

test('who may be enrolled is a file of the node, for the agent alone', async () => {
  const config = configuration({ method: 'Tpm' });
  const permitted = await run('agent', 'enrol', '--config', config, 'n[0-1]');
  assert.equal(permitted.code, 0, permitted.stderr);
  assert.match(permitted.stdout, /^n0: its TPM is enrolled in its next trusted boot\nn1: /);
  const file = join(scratch, 'data/r0/n0/tpm-permission.json');
  assert.equal(statSync(file).mode & 0o777, 0o600);
  const keys = join(scratch, 'keys');
  writeFileSync(keys, `# delivered in May\nn1 ${'AB'.repeat(32)}\n`);
  const named = await run('agent', 'enrol', 'n1', '--config', config, '--keys', keys);
  assert.equal(named.code, 0, named.stderr);
  assert.equal(
    JSON.parse(readFileSync(join(scratch, 'data/r0/n1/tpm-permission.json'), 'utf8')).endorsement,
    'ab'.repeat(32),
  );
  const shown = await run('agent', 'enrolled', '--config', config);
  assert.match(shown.stdout, /^n0 {2}not enrolled; to be enrolled .*\nn1 .*\nn2 {2}not enrolled\n$/);
});

test('what cannot be permitted is said, and nothing of it is', async () => {
  const config = configuration({ method: 'Tpm', enrolment: 'Command' });
  const stranger = await run('agent', 'enrol', '--config', config, 'n2,n7');
  assert.equal(stranger.code, 1);
  assert.match(stranger.stderr, /n7 is no node of/);
  assert.throws(() => statSync(join(scratch, 'data/r0/n2/tpm-permission.json')));
  const keys = join(scratch, 'wrong');
  writeFileSync(keys, 'n2 abc\n');
  assert.match((await run('agent', 'enrol', '--config', config, 'n2', '--keys', keys)).stderr, /wrong:1: a line is/);
  const plain = await run('agent', 'enrol', '--config', configuration(), 'n2');
  assert.match(plain.stderr, /nothing is attested by TPM/);
  const unknown = await run('agent', 'enrol', '--config', configuration({ method: 'Magic' }), 'n2');
  assert.match(unknown.stderr, /qemu.attestation.method must be equal/);
});

test('a file that is no image has no reference values', async () => {
  const path = join(scratch, 'none.efi');
  writeFileSync(path, 'nothing');
  const measured = await run('trusted-image', 'measure', path);
  assert.equal(measured.code, 1);
  assert.match(measured.stderr, /none\.efi: no PE file/);
});
