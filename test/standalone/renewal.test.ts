/** The server's own certificates, while it runs for longer than they live. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { connect } from 'node:tls';
import { systemRandom } from '../../controller/runtime/random.ts';
import { startStandalone } from '../../controller/standalone/server.ts';
import { settle, VirtualClock } from '../support/virtual-clock.ts';

const dayMs = 86_400_000;

test('a server that runs for a year renews its certificate and the kubeconfig before they end', async (t) => {
  const dataDir = mkdtempSync(join(tmpdir(), 'bitvisor-renewal-'));
  const start = (clock: VirtualClock) => startStandalone({ dataDir, port: 0, clock, random: systemRandom, crds: [] });
  const begun = Date.now();
  await (await start(new VirtualClock(begun))).close();
  const clock = new VirtualClock(begun + 334 * dayMs);
  const server = await start(clock);
  t.after(async () => {
    await server.close();
    rmSync(dataDir, { recursive: true, force: true });
  });
  const kubeconfig = (): string => readFileSync(server.kubeconfigPath, 'utf8');
  const served = async (): Promise<string> => {
    // By the clock of this test it is another year.
    const socket = connect({ host: '127.0.0.1', port: server.port, rejectUnauthorized: false });
    await once(socket, 'secureConnect');
    const { valid_to: end } = socket.getPeerCertificate();
    socket.destroy();
    return end;
  };
  const first = kubeconfig();
  assert.equal(Math.round((Date.parse(await served()) - begun) / dayMs), 365, 'it was issued at the first start');

  await clock.advance(2 * dayMs);
  // Keys are made outside the virtual time.
  while (kubeconfig() === first) await settle();
  const left = Date.parse(await served()) - clock.now();
  assert.ok(left > 360 * dayMs, `${left / dayMs} days are left`);
});
