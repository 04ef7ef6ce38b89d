/** `agent --config` with `drivers: hardware`: a file that is not understood names its fields; a rack whose BMCs are away starts and says so. */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { parse, stringify } from 'yaml';
import { sharedCa, untilReal } from '../support/agent-network.ts';
import { Program, run } from './program.ts';

const scratch = mkdtempSync(join(tmpdir(), 'bitvisor-hardware-'));
after(() => rmSync(scratch, { recursive: true, force: true }));

type Section = Record<string, unknown>;

/** The configuration of docs/hardware.md, moved to addresses of this host. */
async function configuration(change: (hardware: Section) => void = () => {}): Promise<string> {
  const page = readFileSync(new URL('../../docs/hardware.md', import.meta.url), 'utf8');
  const text = (/```yaml\n(.*?)```/s.exec(page)?.[1] ?? '')
    .replaceAll('10.77.', '127.77.')
    .replaceAll('10.66.', '127.66.')
    .replaceAll('switches.example', '127.66.0.1:1');
  const config = parse(text) as { dataDir: string; host: string; racks: Section[]; hardware: Section };
  const ca = await sharedCa();
  const { certPem, keyPem } = await ca.issue('r0', ['r0']);
  for (const place of ['pki', 'secrets', 'vmm', 'trusted']) mkdirSync(join(scratch, place), { recursive: true });
  for (const name of ['ca.crt', 'bmc-ca.crt', 'switches.crt', 'images.crt'])
    writeFileSync(join(scratch, 'pki', name), ca.caPem);
  writeFileSync(join(scratch, 'pki/server.crt'), certPem);
  writeFileSync(join(scratch, 'pki/server.key'), keyPem, { mode: 0o600 });
  writeFileSync(join(scratch, 'secrets/bmc.json'), '{"username": "u", "password": "a-secret"}', { mode: 0o600 });
  writeFileSync(join(scratch, 'secrets/switches.token'), 'another-secret', { mode: 0o600 });
  change(config.hardware);
  const path = join(scratch, 'rack.yaml');
  const racks = config.racks.map((rack) => ({ ...rack, port: 0 }));
  const images = { ...(config.hardware.images as Section), diskBytes: 2 ** 26, memoryBytes: 2 ** 24 };
  const hardware = { ...config.hardware, images };
  writeFileSync(path, stringify({ ...config, hardware, racks, dataDir: 'data', host: '127.0.0.1' }));
  return path;
}

test('a field that is not understood is named', async () => {
  const unknown = await run(
    'agent',
    '--config',
    await configuration((hardware) => {
      hardware.bmcs = {};
    }),
  );
  assert.equal(unknown.code, 1);
  assert.match(unknown.stderr, /hardware must NOT have additional properties: "bmcs"/);
  const plain = await run(
    'agent',
    '--config',
    await configuration((hardware) => {
      const nodes = hardware.nodes as Record<string, Section>;
      nodes.r0n1 = { ...nodes.r0n1, bmc: { url: 'http://127.66.0.11' } };
    }),
  );
  assert.match(plain.stderr, /hardware\.nodes\.r0n1\.bmc\.url must match pattern "\^https:/);
  const missing = await run(
    'agent',
    '--config',
    await configuration((hardware) => {
      delete hardware.classes;
    }),
  );
  assert.match(missing.stderr, /hardware\.nodes\.r0n0\.class: there is no hardware\.classes\.thin/);
});

test('a rack whose BMCs and switches are away starts, writes what dnsmasq needs, and says no secret', async () => {
  const program = new Program(['agent', '--config', await configuration()]);
  await untilReal(() => program.stderr.includes('agents are listening'));
  const dhcp = readFileSync(join(scratch, 'data/r0/dnsmasq.conf'), 'utf8');
  assert.match(dhcp, /^dhcp-host=3c:ec:ef:00:00:11,127\.77\.0\.10$/m);
  program.process.kill('SIGTERM');
  const { code, stdout, stderr } = await program.ended;
  assert.equal(code, 0, stderr);
  assert.doesNotMatch(stdout + stderr, /a-secret|another-secret/);
});
