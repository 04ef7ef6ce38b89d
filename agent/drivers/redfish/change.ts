/**
 * What was asked of a machine, and how it comes to its end. Pure: it is told what was read and what became of requests, and says what
 * to do next.
 *
 * Invariants:
 * 1. Done comes from a reading that was taken after the request, never from an answer. Power that is as wanted needs no request; a boot
 *    order does, wherever the BMC takes one.
 * 2. Error comes when nothing can follow: the BMC refused, or nothing was ever sent, or the BMC answered long after the last request
 *    without having acted, with its tasks deleted and read back as gone.
 * 3. It ends in bounded time. Of a BMC that stays silent nothing is certain; after `silentMs` beyond the limit it is given up, and
 *    what it may still do when it comes back shows in the readings.
 */
import type { BootOrder, Change, PowerState } from '../port.ts';
import type { Place, Way } from './boot.ts';
import type { Outcome } from './system.ts';

export interface ChangeTimes {
  /** From asking until a change that has no effect is given up. */
  readonly limitMs: number;
  /** From the last request until a BMC that answers and has not acted is believed not to act any more. */
  readonly settleMs: number;
  /** From a request that was taken without effect to the next. */
  readonly repeatMs: number;
  /** From a request that was refused, or did not get through, to the next. */
  readonly retryMs: number;
  readonly silentMs: number;
  /**
   * From asking until a change of which nothing was sent, because the BMC cannot be read, is given up. Short, because it is certain that
   * nothing follows, and because a node with a change under way is not fenced.
   */
  readonly unsentMs: number;
}

/** An agent gives an operation up after 5 minutes: by then it should have a reason to show. */
export const defaultTimes: ChangeTimes = {
  limitMs: 180_000,
  settleMs: 45_000,
  repeatMs: 30_000,
  retryMs: 5_000,
  silentMs: 120_000,
  unsentMs: 60_000,
};

const mostRefusals = 3;

export type Wish =
  | { readonly kind: 'Power'; readonly desired: 'On' | 'Off' }
  | { readonly kind: 'Press' }
  | { readonly kind: 'Order'; readonly place: Place };

export interface Seen {
  readonly power: PowerState;
  readonly moving: boolean;
  readonly order: BootOrder;
  readonly resetTypes: readonly string[];
  readonly ways: readonly Way[];
  /** Why there are no more ways. */
  readonly missing: readonly string[];
  readonly bootTargets: readonly string[];
}

export type Next =
  | { readonly kind: 'Reset'; readonly type: string }
  | { readonly kind: 'SetBoot'; readonly path: string; readonly way: Way }
  | { readonly kind: 'DeleteTask'; readonly path: string }
  | { readonly kind: 'Wait' }
  | { readonly kind: 'End'; readonly change: Change };

const resetTypesFor: Readonly<Record<'On' | 'Off' | 'Press', readonly string[]>> = {
  On: ['On', 'ForceOn', 'PushPowerButton'],
  Off: ['ForceOff'],
  Press: ['GracefulShutdown', 'PushPowerButton'],
};

export class AskedChange {
  readonly token: string;
  readonly wish: Wish;
  readonly #times: ChangeTimes;
  readonly #askedAt: number;
  /** When a request may last have reached the BMC. */
  #sentAt: number | undefined;
  #triedAt = Number.NEGATIVE_INFINITY;
  #refusals = 0;
  #task: string | undefined;
  #lastTrouble: string | undefined;
  /** Ways and places that the BMC refused, or took without effect. */
  readonly #spent = new Set<string>();
  #trying: string | undefined;
  /** Whether the BMC said that it did, or will do, what was tried last. */
  #taken = false;

  constructor(token: string, wish: Wish, times: ChangeTimes, nowMs: number) {
    this.token = token;
    this.wish = wish;
    this.#times = times;
    this.#askedAt = nowMs;
  }

  get task(): string | undefined {
    return this.#task;
  }

  /** What is to be done now that the machine was read. */
  next(seen: Seen, nowMs: number): Next {
    // A boot order that the firmware ignored is shown as well: only a request mends that, so the reading before it counts for nothing.
    if (this.#holds(seen) && (this.wish.kind !== 'Order' || this.#sentAt !== undefined)) return this.#end('Done');
    if (this.wish.kind === 'Press' && this.#taken && this.#task === undefined) return this.#end('Done');
    if (nowMs - this.#askedAt >= this.#times.limitMs || this.#refusals >= mostRefusals)
      return this.#giveUp(seen, nowMs);
    if (this.#task !== undefined) return { kind: 'Wait' };
    const waited = this.#sentAt === undefined ? Number.POSITIVE_INFINITY : nowMs - this.#sentAt;
    if (waited < this.#times.repeatMs || nowMs - this.#triedAt < this.#times.retryMs || seen.moving)
      return { kind: 'Wait' };
    // A button that may have been pressed is not pressed again: it would switch a machine on that has just gone down.
    if (this.wish.kind === 'Press' && this.#sentAt !== undefined) return { kind: 'Wait' };
    return this.wish.kind === 'Order' ? this.#nextWay(seen) : this.#nextReset(seen);
  }

  /** What is to be done when the machine could not be read. */
  unread(trouble: string, nowMs: number): Next {
    this.#lastTrouble = trouble;
    const { limitMs, silentMs, unsentMs } = this.#times;
    const since = nowMs - this.#askedAt;
    if (this.#sentAt === undefined) {
      return since >= unsentMs ? this.#end('Error', `nothing was sent: ${trouble}`) : { kind: 'Wait' };
    }
    return since >= limitMs + silentMs
      ? this.#end('Error', `the BMC does not answer any more, and may still act when it comes back: ${trouble}`)
      : { kind: 'Wait' };
  }

  #holds({ power, order }: Seen): boolean {
    switch (this.wish.kind) {
      case 'Power':
        return power === this.wish.desired;
      case 'Press':
        return power === 'Off';
      case 'Order':
        return order === this.wish.place;
    }
  }

  #nextReset({ resetTypes, power }: Seen): Next {
    const wished = this.wish.kind === 'Power' ? this.wish.desired : 'Press';
    const possible = resetTypesFor[wished].filter((type) => resetTypes.length === 0 || resetTypes.includes(type));
    // The button does the opposite of what is wanted when the machine is not where it is believed to be.
    const safe = possible.filter((type) => type !== 'PushPowerButton' || power === (wished === 'On' ? 'Off' : 'On'));
    const type = safe.find((one) => !this.#spent.has(one));
    if (type !== undefined) {
      this.#trying = type;
      return { kind: 'Reset', type };
    }
    const known = resetTypes.join(', ') || 'none';
    const why = this.#lastTrouble === undefined ? `it knows ${known}` : this.#lastTrouble;
    return this.#sentAt === undefined ? this.#end('Error', `the BMC cannot do it: ${why}`) : { kind: 'Wait' };
  }

  #nextWay(seen: Seen): Next {
    const { ways, missing, bootTargets } = seen;
    for (const way of ways) {
      for (const path of bootTargets) {
        const attempt = `${way.name} at ${path}`;
        if (this.#spent.has(attempt)) continue;
        // Taken, and not there after the time that every BMC shows it in: the next way, and never this one again.
        if (attempt === this.#trying && this.#taken) {
          this.#spent.add(attempt);
          this.#lastTrouble = `${way.name} was taken and is not read back`;
          continue;
        }
        this.#trying = attempt;
        this.#taken = false;
        return { kind: 'SetBoot', path, way };
      }
    }
    if (this.#holds(seen)) return this.#end('Done');
    const reasons = [...missing, ...(this.#lastTrouble === undefined ? [] : [this.#lastTrouble])];
    return this.#end('Error', `no lasting boot order can be set: ${reasons.join('; ')}`);
  }

  /** What became of the request that `next` asked for. */
  outcome(outcome: Outcome, nowMs: number): void {
    this.#triedAt = nowMs;
    switch (outcome.kind) {
      case 'Accepted':
        this.#sentAt = nowMs;
        this.#taken = true;
        return;
      case 'Task':
        this.#sentAt = nowMs;
        this.#taken = true;
        this.#task = outcome.path;
        return;
      case 'Unsure':
        this.#sentAt = nowMs;
        this.#lastTrouble = outcome.message;
        return;
      case 'NotSent':
        this.#lastTrouble = outcome.message;
        return;
      case 'Refused':
        this.#lastTrouble = outcome.message;
        // A refusal for the state that the machine is in (409, or 400 as iLO says it) may be over with the next reading.
        if (this.wish.kind === 'Order' || outcome.status === 405 || outcome.status === 501) {
          if (this.#trying !== undefined) this.#spent.add(this.#trying);
        } else {
          this.#refusals++;
        }
    }
  }

  /** The task has ended, or is gone. */
  taskEnded({ failed, message }: { readonly failed: boolean; readonly message: string }): void {
    this.#task = undefined;
    if (!failed) return;
    this.#taken = false;
    this.#lastTrouble = message;
    if (this.wish.kind === 'Order' && this.#trying !== undefined) this.#spent.add(this.#trying);
    else this.#refusals = mostRefusals;
  }

  #giveUp(seen: Seen, nowMs: number): Next {
    const { limitMs, settleMs, silentMs } = this.#times;
    if (this.#task !== undefined) {
      return nowMs - this.#askedAt < limitMs + silentMs
        ? { kind: 'DeleteTask', path: this.#task }
        : this.#end('Error', `the BMC does not delete its task ${this.#task}, which may still act`);
    }
    if (this.#sentAt !== undefined && nowMs - this.#sentAt < settleMs) return { kind: 'Wait' };
    const { wish } = this;
    if (this.#holds(seen)) return this.#end('Done');
    if (wish.kind === 'Press') {
      const why = this.#lastTrouble ?? 'no reason given';
      return this.#end('Error', `the power button was not pressed, as far as is known: ${why}`);
    }
    const is = wish.kind === 'Power' ? `power is ${seen.power}` : `the boot order is ${seen.order}`;
    return this.#end('Error', `${is}: ${this.#lastTrouble ?? 'the BMC took the request and did not act'}`);
  }

  #end(status: 'Done' | 'Error', error?: string): Next {
    const { token } = this;
    return { kind: 'End', change: { token, status, ...(error === undefined ? {} : { error: error.slice(0, 500) }) } };
  }
}
