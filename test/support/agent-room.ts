/** A rack of simulated machines and its agent under a virtual clock, with the instructions that tests give it. */
import { AgentCore } from '../../agent/core.ts';
import { simulatedDrivers } from '../../agent/drivers/simulated/drivers.ts';
import { defaultRoom, type RoomOptions } from '../../agent/drivers/simulated/options.ts';
import { SimulatedRack } from '../../agent/drivers/simulated/rack.ts';
import { MemoryRackStore, type RackStore } from '../../agent/drivers/simulated/store.ts';
import { type AgentLog, MemoryLog } from '../../agent/log.ts';
import type {
  Environment,
  Instruction,
  InstructionResult,
  NodeObservation,
} from '../../controller/api/protocol.generated.ts';
import { seededRandom } from '../../controller/runtime/random.ts';
import { VirtualClock } from './virtual-clock.ts';

const digest = 'a'.repeat(64);
const domain = 'alloc-1';
const nonce = 'nonce-0123456789';

export function environment(revision = 'r1', image: Partial<Environment['image']> = {}): Environment {
  return {
    revision,
    os: { family: 'Linux', architecture: 'x86_64' },
    image: { url: 'https://images.test/os.raw', format: 'Raw', sizeBytes: 4 * 2 ** 30, sha256: digest, ...image },
    boot: { firmware: 'Uefi', kernelArguments: ['quiet'] },
    install: { yield: 'Fair', disk: { media: 'Any', minSizeBytes: 0 } },
    vmm: { dataPorts: 'Passthrough' },
  };
}

type Step = Omit<Extract<Instruction, { verb: 'fence' }>, 'verb' | 'node' | 'epoch' | 'operationId'> & {
  verb: Instruction['verb'];
};

/** The part of an instruction that says what; node, epoch and id come from the test. */
export const steps = {
  isolate: (to = domain, allocation = 'uid-1') =>
    ({ verb: 'isolate', args: { domain: to, egress: 'None', allocation } }) as const,
  reimage: (env: Environment = environment(), allocation = 'uid-1') =>
    ({ verb: 'reimage', args: { environment: env, allocation, hostname: 'host', sshKeys: [] } }) as const,
  prepare: { verb: 'devirtualize', args: { phase: 'Prepare' } } as const,
  commit: { verb: 'devirtualize', args: { phase: 'Commit' } } as const,
  drain: (timeoutSeconds = 300) => ({ verb: 'drain', args: { timeoutSeconds, message: 'ending' } }) as const,
  fence: { verb: 'fence' } as const,
  off: { verb: 'power', args: { desired: 'Off' } } as const,
  on: { verb: 'power', args: { desired: 'On' } } as const,
  attest: { verb: 'attest', args: { nonce } } as const,
  wipe: { verb: 'wipe', args: { erase: 'Quick' } } as const,
  check: { verb: 'check' } as const,
  inspect: { verb: 'inspect' } as const,
  throttle: (maxRateBytes: number) => ({ verb: 'throttle', args: { maxRateBytes } }) as const,
};

export type TestStep = Pick<Step, 'verb'> & { readonly args?: unknown };

/** From a machine as delivered to a certified one. */
export const enrolment: readonly TestStep[] = [steps.fence, steps.off, steps.attest, steps.wipe, steps.check];
/** From a certified machine to bare metal. */
export const tenancy: readonly TestStep[] = [steps.isolate(), steps.reimage(), steps.prepare, steps.commit];

export class AgentRoom {
  readonly clock = new VirtualClock();
  readonly store: RackStore;
  readonly name: string;
  readonly nodes: readonly string[];
  readonly log: AgentLog;
  readonly errors: unknown[] = [];
  readonly #random = seededRandom(7);
  readonly #room: RoomOptions;
  rack: SimulatedRack;
  core: AgentCore;
  #operations = 0;

  constructor(
    options: {
      name?: string;
      nodes?: readonly string[];
      room?: Partial<RoomOptions>;
      log?: AgentLog;
      store?: RackStore;
    } = {},
  ) {
    this.name = options.name ?? 'rack-0';
    this.nodes = options.nodes ?? ['n0', 'n1'];
    this.#room = { ...defaultRoom, ...options.room };
    this.store = options.store ?? new MemoryRackStore(10_000, true);
    this.log = options.log ?? new MemoryLog('store-1');
    this.rack = this.#openRack();
    this.core = this.#openCore();
  }

  #openRack(): SimulatedRack {
    return new SimulatedRack({
      nodes: this.nodes,
      room: this.#room,
      store: this.store,
      clock: this.clock,
      random: this.#random,
      progressIntervalMs: 1000,
      onError: (error) => this.errors.push(error),
    });
  }

  #openCore(): AgentCore {
    return new AgentCore({
      name: this.name,
      version: 'test',
      nodes: this.nodes,
      drivers: simulatedDrivers(this.rack),
      log: this.log,
      clock: this.clock,
      random: this.#random,
      onError: (error) => this.errors.push(error),
    });
  }

  /** The agent dies; its machines go on. */
  restartAgent(): void {
    this.core.close();
    this.core = this.#openCore();
  }

  /** Agent and machine room die; the machines are found again as they were stored. */
  restartProcess(): void {
    this.core.close();
    this.rack.close();
    this.rack = this.#openRack();
    this.core = this.#openCore();
  }

  seen(node = 'n0'): NodeObservation {
    const seen = this.core.observation(node);
    if (seen === undefined) throw new Error(`${node} was never observed`);
    return seen.node;
  }

  give(
    step: TestStep,
    { epoch, node = 'n0', term = 1, id }: { epoch: number; node?: string; term?: number; id?: string },
  ): InstructionResult {
    const operationId = id ?? `op-${++this.#operations}`;
    const instruction = { operationId, node, epoch, ...step } as Instruction;
    const [result] = this.core.instruct({ term, instructions: [instruction] }).results;
    if (result === undefined) throw new Error('no result');
    return result;
  }

  /** Gives the step once it is accepted, and waits until its operation ended. Returns the status. */
  async run(step: TestStep, epoch: number, node = 'n0'): Promise<string> {
    const ready = (): boolean => {
      const { copy } = this.seen(node);
      return step !== steps.prepare || (copy.totalBytes > 0 && copy.flushed);
    };
    await this.clock.runUntil(ready);
    const answer = this.give(step, { epoch, node });
    if (answer.result === 'Refused') return `${answer.reason}: ${answer.message}`;
    await this.clock.runUntil(() => {
      const { operation } = this.seen(node);
      return operation?.id === answer.operationId && operation.status !== 'Running';
    });
    return this.seen(node).operation?.status ?? 'none';
  }

  async runAll(list: readonly TestStep[], epoch: number, node = 'n0'): Promise<void> {
    for (const step of list) {
      const status = await this.run(step, epoch, node);
      if (status !== 'Done') throw new Error(`${step.verb}: ${status} ${JSON.stringify(this.seen(node).operation)}`);
    }
  }

  events(event: string, node = 'n0'): Readonly<Record<string, unknown>>[] {
    return this.rack
      .history()
      .filter((entry) => entry.event === event && entry.node === node)
      .map(({ detail }) => detail);
  }

  close(): void {
    this.core.close();
    this.rack.close();
  }
}
