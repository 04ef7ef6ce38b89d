/**
 * A process that serves and writes until it is killed: prints a line for every write that was answered.
 */
import { type Json, standaloneTarget } from './api-target.ts';
import { gadgetCrd } from './widget-crds.ts';

const target = await standaloneTarget([gadgetCrd], { dataDir: process.argv[2] ?? '' });
const write = async (name: string): Promise<void> => {
  const body: Json = { apiVersion: 'test.bitvisor.io/v1', kind: 'Gadget', metadata: { name } };
  const answer = await target.call('POST', '/apis/test.bitvisor.io/v1/gadgets', { body });
  process.stdout.write(`${JSON.stringify({ name, version: Number(answer.body.metadata.resourceVersion) })}\n`);
};
for (let i = 0; ; i += 8) await Promise.all(Array.from({ length: 8 }, (_, k) => write(`g-${i + k}`)));
