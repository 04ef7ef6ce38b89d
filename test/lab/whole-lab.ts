/**
 * A rack of the lab as the program opens it (BMCs, bridge, image cache, trusted image), with its agent in this process.
 *
 * Invariant: `close` ends every process and namespace of it, also after a failed test.
 */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { RunningBmc } from '../../agent/drivers/qemu/bmc/server.ts';
import type { QemuMachine } from '../../agent/drivers/qemu/machine.ts';
import { type LabSettings, type OpenedLab, openLab } from '../../agent/drivers/qemu/open.ts';
import { diskPath } from '../../agent/drivers/qemu/shape.ts';
import { MemoryLog } from '../../agent/log.ts';
import type { NodeObservation } from '../../controller/api/protocol.generated.ts';
import { systemClock as clock } from '../../controller/runtime/clock.ts';
import { systemRandom as random } from '../../controller/runtime/random.ts';
import { steps, type TestStep } from '../support/agent-room.ts';
import { until } from '../support/until.ts';
import { certifiedRows } from './lab-rack.ts';
import { type Given, RackAgent } from './rack-agent.ts';
import { tryInGuest } from './support/in-guest.ts';

/** Of a trusted boot by UEFI, on a busy machine without hardware virtualization. */
export const trustedBootMs = 150_000;

export class WholeLab {
  readonly directory = mkdtempSync(join(tmpdir(), 'lab-'));
  readonly nodes: readonly string[];
  readonly log = new MemoryLog('store-1');
  readonly errors: unknown[] = [];
  readonly #given: Given = new Map();
  #opened: OpenedLab | undefined;
  #agent: RackAgent | undefined;

  constructor(nodes: readonly string[] = ['n0']) {
    this.nodes = nodes;
    mkdirSync(this.rackDirectory);
  }

  get rackDirectory(): string {
    return join(this.directory, 'rack');
  }

  /** Machines that ran before an agent was killed are taken up again. */
  async open(settings: LabSettings): Promise<void> {
    const onError = (error: unknown): void => void this.errors.push(error);
    this.#opened = await openLab(this.nodes, settings, { directory: this.rackDirectory, clock, random, onError });
    const { drivers } = this.#opened;
    this.#agent = new RackAgent({ nodes: this.nodes, drivers, log: this.log, onError }, this.#given);
  }

  get agent(): RackAgent {
    if (this.#agent === undefined) throw new Error('the lab is not open');
    return this.#agent;
  }

  /** Nodes that were reclaimed once, under epoch 1; before the lab is opened. */
  certify(): void {
    this.log.write(certifiedRows(this.nodes), 0);
  }

  get netns(): string {
    return this.#opened?.rack.netns ?? '';
  }

  /** As root in the node's guest, once it takes commands. */
  async inGuest(command: string, node = 'n0', patienceMs = 150_000): Promise<string> {
    const path = this.machine(node).socketPath('serial');
    let output: string | undefined;
    const runs = async (): Promise<boolean> => {
      output = await tryInGuest(path, command, patienceMs);
      return output !== undefined;
    };
    await until(`the guest of ${node} runs ${command}`, runs, patienceMs);
    return output ?? '';
  }

  /** What the node's BMC does wrong, to switch. */
  misbehaviour(node = 'n0'): RunningBmc['misbehaviour'] {
    const bmc = this.#opened?.bmcs.get(node);
    if (bmc === undefined) throw new Error('the lab is not open');
    return bmc.misbehaviour;
  }

  machine(node = 'n0'): QemuMachine {
    return this.#opened?.rack.machines.get(node) as QemuMachine;
  }

  disk(name = 'sda', node = 'n0'): Buffer {
    return readFileSync(diskPath(this.machine(node).spec, name));
  }

  /** What an earlier tenant left: `begin`, and a pattern behind it. The machine is off. */
  soil(name = 'sda', begin: Buffer = Buffer.alloc(0), node = 'n0'): void {
    const path = diskPath(this.machine(node).spec, name);
    writeFileSync(path, Buffer.concat([begin, Buffer.alloc(statSync(path).size - begin.length, 0x5a)]));
  }

  serial(node = 'n0'): string {
    return readFileSync(this.machine(node).serialLogPath, 'latin1');
  }

  /** With its machines, unless they are kept. */
  async endAgent(): Promise<void> {
    this.#agent?.close();
    await this.#opened?.close();
    this.#opened = undefined;
  }

  async close(): Promise<void> {
    await this.endAgent();
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/** What comes before an attestation. */
export const toAttest: readonly TestStep[] = [steps.fence, steps.off];

/** Goes to the attestation, and says how it ended; and that nothing can follow. */
export async function refusal(agent: RackAgent, epoch: number): Promise<NonNullable<NodeObservation['operation']>> {
  await agent.runAll(toAttest, epoch);
  const operation = await agent.ended(agent.give(steps.attest, epoch), 'n0', trustedBootMs);
  assert.throws(() => agent.give(steps.wipe, epoch), /NotAttested/);
  assert.throws(() => agent.give(steps.check, epoch), /NotAttested/);
  assert.notEqual(agent.seen().record.certificate?.epoch, epoch);
  return operation;
}
