/**
 * One machine of the Redfish power driver: looks at its BMC from time to time, keeps what it read, and brings what was asked to its end.
 *
 * Invariants:
 * 1. One look at a time; a request is made within a look, and its effect comes from a later one.
 * 2. What cannot be read now is Unknown, at once: an old reading is no reading. The facts stay, because they are about the machine.
 * 3. The power is Unknown until the facts were read once: nothing is done with a machine whose disks are not known.
 *    They are of the machine whose UUID every look finds: another one's are read before anything else is said of it.
 * 4. A disk that is missing from the inventory is believed to be gone when two readings of the running machine say so: BMCs show
 *    less of a machine that is off, or has only just started, and what is not known of is not wiped.
 * 5. A BMC is asked the less often the slower it answers, and after failures ever more seldom, with jitter.
 */
import type { Clock } from '../../../controller/runtime/clock.ts';
import type { Random } from '../../../controller/runtime/random.ts';
import type { BootOrder, Change, PowerReading, PowerState } from '../port.ts';
import { type NetworkTarget, readOrder, waysTo } from './boot.ts';
import { AskedChange, type ChangeTimes, type Next, type Seen, type Wish } from './change.ts';
import type { Gate } from './gate.ts';
import { NoAnswer } from './http.ts';
import { type RedfishFacts, uuidMissing } from './inventory.ts';
import type { RedfishSystem, SystemReading } from './system.ts';

export interface PollTimes {
  /** Between two looks at a machine of which nothing is asked. */
  readonly idleMs: number;
  /** The first look after a request; each further one comes later, up to `slowestMs`. */
  readonly quickMs: number;
  readonly slowestMs: number;
  /** After a failed look; doubled with each further one, up to ten times `idleMs`. */
  readonly failedMs: number;
  /** Between two readings of the inventory. */
  readonly factsMs: number;
  /** Until a reading of the inventory in which something was missing is repeated. */
  readonly factsAgainMs: number;
}

export const defaultPolls: PollTimes = {
  idleMs: 15_000,
  quickMs: 500,
  slowestMs: 5_000,
  failedMs: 5_000,
  factsMs: 3_600_000,
  factsAgainMs: 120_000,
};

export interface NodeOptions {
  readonly system: RedfishSystem;
  readonly network: NetworkTarget;
  /** The order that the firmware follows by itself, where the BMC shows none. */
  readonly firmwareOrder: BootOrder;
  readonly polls: PollTimes;
  readonly times: ChangeTimes;
  readonly gate: Gate;
  readonly clock: Clock;
  readonly random: Random;
  readonly facts: RedfishFacts | undefined;
  onFacts(facts: RedfishFacts): void;
  onReading(): void;
  /** Trouble of the BMC, in words; undefined when it is over. */
  onTrouble(trouble: string | undefined): void;
}

type Channel = 'state' | 'order';

/** A look is to take a fifth of a BMC's time at most. */
const restFactor = 4;
const jitter = 0.3;

const diskKeys = ({ systemUuid, inventory }: RedfishFacts): string[] =>
  inventory.disks.map(({ serial, name }) => `${systemUuid} ${serial ?? name}`);

/** The same machine with fewer of its disks. */
function lacksDisks(now: RedfishFacts, before: RedfishFacts): boolean {
  const keys = new Set(diskKeys(now));
  return now.systemUuid === before.systemUuid && diskKeys(before).some((key) => !keys.has(key));
}

export class RedfishNode {
  readonly #options: NodeOptions;
  #facts: RedfishFacts | undefined;
  #factsAt = Number.NEGATIVE_INFINITY;
  /** Facts that lacked a disk, as JSON, until they are read again. */
  #doubted: string | undefined;
  #factsTrouble: string | undefined;
  #power: PowerState = 'Unknown';
  #order: BootOrder = 'Unknown';
  readonly #asked: { [channel in Channel]?: AskedChange } = {};
  readonly #waiting: { [channel in Channel]?: { wish: Wish; token: string } } = {};
  readonly #changes: { [channel in Channel]?: Change } = {};
  #trouble: string | undefined;
  #failures = 0;
  #looks = 0;
  #lookMs = 0;
  #looking: Promise<void> | undefined;
  #lookAgain = false;
  #cancelTimer = (): void => {};
  #closed = false;

  constructor(options: NodeOptions) {
    this.#options = options;
    this.#facts = options.facts;
    this.#look();
  }

  get facts(): RedfishFacts | undefined {
    return this.#facts;
  }

  read(): PowerReading {
    const { state, order } = this.#changes;
    return {
      state: this.#facts === undefined ? 'Unknown' : this.#power,
      order: this.#order,
      ...(state === undefined ? {} : { stateChange: state }),
      ...(order === undefined ? {} : { orderChange: order }),
    };
  }

  ask(channel: Channel, wish: Wish, token: string): void {
    const { clock, times } = this.#options;
    if (this.#asked[channel] !== undefined) {
      this.#waiting[channel] = { wish, token };
      return;
    }
    this.#asked[channel] = new AskedChange(token, wish, times, clock.monotonic());
    this.#changes[channel] = { token, status: 'Pending' };
    this.#looks = 0;
    clock.setTimer(0, () => this.#tell());
    this.#look();
  }

  /** Reads everything again, the inventory too. */
  refresh(): void {
    this.#factsAt = Number.NEGATIVE_INFINITY;
    this.#look();
  }

  #tell(): void {
    if (!this.#closed) this.#options.onReading();
  }

  get #pending(): boolean {
    return this.#asked.state !== undefined || this.#asked.order !== undefined;
  }

  #look(): void {
    if (this.#closed) return;
    this.#cancelTimer();
    if (this.#looking !== undefined) {
      this.#lookAgain = true;
      return;
    }
    const { gate, clock } = this.#options;
    this.#looking = gate
      .run(this.#pending, async () => {
        if (this.#closed) return;
        const begin = clock.monotonic();
        await this.#lookNow();
        this.#lookMs = clock.monotonic() - begin;
      })
      .finally(() => {
        this.#looking = undefined;
        if (this.#closed) return;
        if (this.#lookAgain) {
          this.#lookAgain = false;
          this.#look();
        } else {
          this.#cancelTimer = clock.setTimer(this.#restMs(), () => this.#look());
        }
      });
  }

  #restMs(): number {
    const { polls, random } = this.#options;
    const { idleMs, quickMs, slowestMs, failedMs } = polls;
    const failing = Math.min(10 * idleMs, failedMs * 2 ** Math.max(0, this.#failures - 1));
    const quick = Math.min(slowestMs, quickMs * 1.5 ** this.#looks++);
    const wanted =
      this.#failures > 0 ? (this.#pending ? Math.min(failing, slowestMs) : failing) : this.#pending ? quick : idleMs;
    return Math.max(wanted * (1 - jitter * random.next()), restFactor * this.#lookMs * (this.#pending ? 0.25 : 1));
  }

  async #lookNow(): Promise<void> {
    const { system, clock } = this.#options;
    const before = JSON.stringify(this.read());
    try {
      const reading = await system.read();
      const missing = await this.#readFacts(reading);
      this.#settle(reading);
      await this.#advance('state', reading);
      await this.#advance('order', reading);
      this.#failures = 0;
      this.#report(missing);
    } catch (error) {
      const trouble = error instanceof Error ? error.message : String(error);
      this.#failures++;
      this.#power = 'Unknown';
      this.#order = 'Unknown';
      this.#report(trouble);
      for (const channel of ['state', 'order'] as const) {
        const next = this.#asked[channel]?.unread(trouble, clock.monotonic());
        if (next?.kind === 'End') this.#end(channel, next.change);
      }
    }
    if (JSON.stringify(this.read()) !== before) this.#tell();
  }

  #report(trouble: string | undefined): void {
    if (trouble !== this.#trouble) this.#options.onTrouble(trouble);
    this.#trouble = trouble;
  }

  #settle({ power, boot }: SystemReading): void {
    const { system, firmwareOrder } = this.#options;
    this.#power = power;
    this.#order = readOrder(boot, system.bootPlaces, firmwareOrder);
  }

  /**
   * @returns why the inventory cannot be read, when an older one does
   * @throws when there is none
   */
  async #readFacts({ power, uuid }: SystemReading): Promise<string | undefined> {
    const { system, clock, polls } = this.#options;
    const now = clock.monotonic();
    const waited = now - this.#factsAt;
    const due = power === 'On' && waited >= (this.#doubted === undefined ? polls.factsMs : polls.factsAgainMs);
    // A BMC that has just started may not know of which machine it is: then nothing it says is about ours.
    if (uuid === undefined) throw new Error(uuidMissing);
    const ofAnother = this.#facts !== undefined && uuid !== this.#facts.systemUuid;
    if (this.#facts !== undefined && !due && !ofAnother) return this.#factsTrouble;
    let facts: RedfishFacts;
    try {
      facts = await system.facts();
      this.#factsTrouble = undefined;
    } catch (error) {
      if (this.#facts === undefined || ofAnother || error instanceof NoAnswer) throw error;
      this.#factsAt = now;
      this.#factsTrouble = `the inventory cannot be read again: ${error instanceof Error ? error.message : error}`;
      return this.#factsTrouble;
    }
    // What a machine that is off shows is looked at again when it runs.
    if (power === 'On') this.#factsAt = now;
    const text = JSON.stringify(facts);
    if (text === JSON.stringify(this.#facts)) {
      this.#doubted = undefined;
      return undefined;
    }
    if (this.#facts !== undefined && lacksDisks(facts, this.#facts) && text !== this.#doubted) {
      this.#doubted = text;
      return undefined;
    }
    this.#doubted = undefined;
    this.#facts = facts;
    this.#options.onFacts(facts);
    this.#tell();
    return undefined;
  }

  async #advance(channel: Channel, reading: SystemReading): Promise<void> {
    const asked = this.#asked[channel];
    if (asked === undefined) return;
    const { system, clock } = this.#options;
    if (asked.task !== undefined) {
      const ended = await system.task(asked.task);
      if (ended !== undefined) asked.taskEnded(ended);
    }
    await this.#carryOut(channel, asked, asked.next(this.#seen(asked, reading), clock.monotonic()), reading);
  }

  #seen({ wish }: AskedChange, { power, moving, boot, quirk, resetTypes, bootTargets }: SystemReading): Seen {
    const { system, network } = this.#options;
    const place = wish.kind === 'Order' ? wish.place : 'Network';
    const { ways, missing } = waysTo(place, boot, system.bootPlaces, quirk, network);
    return { power, moving, order: this.#order, resetTypes, ways, missing, bootTargets };
  }

  async #carryOut(channel: Channel, asked: AskedChange, next: Next, { quirk }: SystemReading): Promise<void> {
    const { system, clock } = this.#options;
    switch (next.kind) {
      case 'Wait':
        return;
      case 'End':
        this.#end(channel, next.change);
        return;
      case 'DeleteTask':
        await system.deleteTask(next.path);
        return;
      case 'Reset':
        asked.outcome(await system.reset(next.type), clock.monotonic());
        break;
      case 'SetBoot':
        asked.outcome(await system.setBoot(next.path, next.way.boot, quirk), clock.monotonic());
    }
    this.#looks = 0;
  }

  #end(channel: Channel, change: Change): void {
    this.#changes[channel] = change;
    delete this.#asked[channel];
    const waiting = this.#waiting[channel];
    delete this.#waiting[channel];
    if (waiting !== undefined) this.ask(channel, waiting.wish, waiting.token);
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#cancelTimer();
    await this.#options.system.close();
    await this.#looking?.catch(() => {});
  }
}
