/** The Redfish driver over a BMC of the lab, with times that a test can wait for. */
import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import type { Change, PowerReading } from '../../../agent/drivers/port.ts';
import type { BmcHardware, Misbehaviour } from '../../../agent/drivers/qemu/bmc/machine.ts';
import { type RunningBmc, startBmc } from '../../../agent/drivers/qemu/bmc/server.ts';
import {
  type BmcEndpoint,
  type FactsStore,
  type RedfishPower,
  redfishPower,
} from '../../../agent/drivers/redfish/power.ts';
import { type Clock, systemClock } from '../../../controller/runtime/clock.ts';
import { systemRandom } from '../../../controller/runtime/random.ts';
import { MemoryMachine, testHardware } from '../../support/bmc-machine.ts';
import { Wakers } from '../../support/wakers.ts';

export const credentials = { username: 'operator', password: 'correct horse battery' };

export const quickPolls = {
  idleMs: 50,
  quickMs: 10,
  slowestMs: 30,
  failedMs: 20,
  factsMs: 3_600_000,
  factsAgainMs: 20,
};
/** Generous to a machine that other tests share: what takes no time ends early in any case. */
export const quickTimes = {
  limitMs: 4_000,
  settleMs: 500,
  repeatMs: 500,
  retryMs: 50,
  silentMs: 1_500,
  unsentMs: 1_000,
};
const timeoutMs = 1_500;

interface Extra {
  readonly facts?: FactsStore;
  readonly concurrency?: number;
  readonly polls?: typeof quickPolls;
}

export class PowerBench {
  readonly power: RedfishPower;
  readonly troubles: (string | undefined)[] = [];
  readonly #wakers = new Wakers();
  #tokens = 0;

  constructor(endpoints: Readonly<Record<string, BmcEndpoint>>, extra: Extra = {}) {
    const wake = (): void => this.#wakers.wake();
    this.power = redfishPower({
      bmcs: new Map(Object.entries(endpoints)),
      clock: systemClock,
      random: systemRandom,
      timeoutMs,
      polls: quickPolls,
      times: quickTimes,
      onChange: wake,
      onTrouble: (_node, trouble) => {
        this.troubles.push(trouble);
        wake();
      },
      ...extra,
    });
  }

  until(what: string, holds: () => boolean): Promise<void> {
    return this.#wakers.until(what, holds, () => this.troubles.at(-1));
  }

  read(node = 'n0'): PowerReading {
    return this.power.read(node);
  }

  /** Waits for the first reading. */
  async known(node = 'n0'): Promise<void> {
    await this.until('a first reading', () => this.read(node).state !== 'Unknown');
  }

  async set(desired: 'On' | 'Off' | 'Shutdown', node = 'n0'): Promise<Change> {
    const token = `p${++this.#tokens}`;
    this.power.set(node, desired, token);
    assert.deepEqual(this.read(node).stateChange, { token, status: 'Pending' });
    await this.until(`power ${desired}`, () => this.read(node).stateChange?.status !== 'Pending');
    return this.read(node).stateChange ?? assert.fail();
  }

  async order(order: 'Network' | 'Disk', node = 'n0'): Promise<Change> {
    const token = `o${++this.#tokens}`;
    this.power.setOrder(node, order, token);
    assert.deepEqual(this.read(node).orderChange, { token, status: 'Pending' });
    await this.until(`order ${order}`, () => this.read(node).orderChange?.status !== 'Pending');
    return this.read(node).orderChange ?? assert.fail();
  }
}

export interface LabBench extends PowerBench {
  readonly machine: MemoryMachine;
  readonly bmc: RunningBmc;
}

export async function labBench(
  t: TestContext,
  {
    misbehaviour = {},
    hardware = testHardware,
    endpoint = {},
    bmcClock = systemClock,
    ...extra
  }: {
    bmcClock?: Clock;
    misbehaviour?: Misbehaviour;
    hardware?: BmcHardware;
    endpoint?: Partial<BmcEndpoint>;
  } & Extra = {},
): Promise<LabBench> {
  const machine = new MemoryMachine();
  const bmc = await startBmc({
    machine,
    hardware,
    credentials,
    clock: bmcClock,
    random: systemRandom,
    misbehaviour,
  });
  t.after(() => bmc.close());
  const bench = new PowerBench(
    { n0: { url: bmc.url, credentials: () => credentials, firmwareOrder: 'Disk', ...endpoint } },
    extra,
  );
  t.after(() => bench.power.close());
  return Object.assign(bench, { machine, bmc });
}
