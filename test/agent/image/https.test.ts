/** Images from https:// addresses: whom the rack believes, and where it lets itself be sent. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { sharedCa } from '../../support/agent-network.ts';
import { makeTestCa } from '../../support/test-ca.ts';
import { bench, readWhole } from './cache-support.ts';
import { mib, noise, startOrigin } from './support.ts';

const image = noise(2 * mib);
const impatient = { patienceMs: 300 };

test('a server is believed by the authority that is named, and by its own name', async (t) => {
  const ca = await sharedCa();
  const { origin, start, spec } = await bench(t, image, await ca.issue('images', ['localhost']));
  assert.match(spec().url, /^https:/);
  const http = { caPem: ca.caPem };
  const cache = await start({ http, policy: { prefixes: [`${origin.url}/`] } });
  assert.ok((await readWhole(await cache.open(spec()))).equals(image));
  await cache.close();

  const sent = (): number => [...origin.sent.values()].reduce((sum, bytes) => sum + bytes, 0);
  const before = sent();
  const elsewhere = { ...spec(), sha256: 'ab'.repeat(32) };
  for (const caPem of [(await makeTestCa('another')).caPem, undefined]) {
    const stranger = await start({ ...impatient, policy: {}, ...(caPem === undefined ? {} : { http: { caPem } }) });
    await assert.rejects(stranger.open(elsewhere), /certificate/);
    await stranger.close();
  }
  const byAddress = { ...elsewhere, url: elsewhere.url.replace('localhost', '127.0.0.1') };
  const strict = await start({ ...impatient, http, policy: {} });
  await assert.rejects(strict.open(byAddress), /127\.0\.0\.1/);
  assert.equal(sent(), before, 'nothing was asked of a server that is not believed');
});

test('an encrypted address leads to no plain one', async (t) => {
  const ca = await sharedCa();
  const plain = await startOrigin({ '/image.raw': image });
  t.after(() => plain.stop());
  const { origin, start, spec } = await bench(t, image, await ca.issue('images', ['localhost']));
  origin.misbehave = (request, response) => {
    response.writeHead(302, { location: `${plain.url}${request.url}` }).end();
    return 'Done';
  };
  const cache = await start({ ...impatient, http: { caPem: ca.caPem }, policy: {} });
  await assert.rejects(cache.open(spec()), /redirects from https to http:/);
  assert.equal(plain.sent.size, 0);
});
