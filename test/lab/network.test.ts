/** The network of a rack by itself: what its machines find there before any rule is made. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { RackNetwork, tapName } from '../../agent/drivers/qemu/network.ts';
import { type MachineSpec, macAddress } from '../../agent/drivers/qemu/shape.ts';
import { labOptions } from './needs.ts';

test(
  'the answer to a router solicitation needs no question back, which the rules would not let through',
  labOptions(30),
  async (t) => {
    const directory = mkdtempSync(join(tmpdir(), 'lab-network-'));
    const netns = `bvlab-net-${process.pid}`;
    const network = new RackNetwork({ netns, directory, machines: [{ index: 3 } as MachineSpec] });
    t.after(async () => {
      await network.remove();
      rmSync(directory, { recursive: true, force: true });
    });
    await network.ensure();
    const ip = (...words: string[]): string => execFileSync('ip', ['-n', netns, ...words], { encoding: 'utf8' });
    const known = (): unknown => {
      const [neighbour] = JSON.parse(ip('-json', '-6', 'neighbor', 'show', 'dev', 'cb3')) as {
        lladdr: string;
        state: string[];
      }[];
      return [neighbour?.lladdr, neighbour?.state];
    };
    const wanted = [macAddress(3, 'Control'), ['PERMANENT']];
    assert.deepEqual(known(), wanted);
    // As the fabric does it when it closes a port.
    ip('link', 'set', tapName(3, 'Control'), 'down');
    ip('link', 'set', tapName(3, 'Control'), 'up');
    assert.deepEqual(known(), wanted);
  },
);
