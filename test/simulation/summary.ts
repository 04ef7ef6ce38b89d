/**
 * What a number of seeds came to: a line for each, and their sum as text and JSON. They may come in any order.
 */
import type { JobAnswer } from './jobs.ts';

interface FailedSeed {
  readonly seed: number;
  readonly replay: string;
  readonly violations: readonly string[];
}

export interface SummaryJson {
  readonly seeds: { readonly first: number; readonly last: number; readonly count: number };
  readonly virtualHours: number;
  /** Node-tenancies: claims of a node by an allocation, its renewals by an update included. */
  readonly tenancies: number;
  readonly cpuSeconds: number;
  readonly tenanciesPerCpuSecond: number;
  readonly faults: Readonly<Record<string, number>>;
  readonly violations: number;
  readonly failed: readonly FailedSeed[];
}

const rounded = (value: number, digits: number): number => Number(value.toFixed(digits));

export class Summary {
  readonly #faults: readonly string[];
  readonly #strikes = new Map<string, number>();
  readonly #failed: FailedSeed[] = [];
  #first = Number.POSITIVE_INFINITY;
  #last = Number.NEGATIVE_INFINITY;
  #count = 0;
  #virtualMs = 0;
  #tenancies = 0;
  #cpuSeconds = 0;

  constructor(faults: readonly string[]) {
    this.#faults = faults;
  }

  get failed(): boolean {
    return this.#failed.length > 0;
  }

  /** @returns the seed's line, and what it broke */
  add(result: JobAnswer['result'], cpuSeconds: number): string {
    const { seed, hash, virtualMs, tenancies, plan, strikes, violations } = result;
    this.#seen(seed);
    this.#virtualMs += virtualMs;
    this.#tenancies += tenancies;
    this.#cpuSeconds += cpuSeconds;
    for (const [kind, count] of Object.entries(strikes))
      this.#strikes.set(kind, (this.#strikes.get(kind) ?? 0) + count);
    const hours = (virtualMs / 3_600_000).toFixed(1);
    const faults = Object.values(strikes).reduce((sum, count) => sum + count, 0);
    const line = `seed ${seed} ${hash} ${plan.mode} ${hours} h, ${tenancies} tenancies, ${faults} faults, ${cpuSeconds.toFixed(2)} s\n`;
    if (violations.length === 0) return line;
    const broken = violations.map(
      ({ rule, message, atMs }) =>
        `${rule === 0 ? 'error' : `rule ${rule}`} at ${Math.round(atMs / 1000)} s: ${message}`,
    );
    return `${line}${this.#fail(seed, broken)}`;
  }

  /** A seed whose process died. */
  lost(seed: number, how: string): string {
    this.#seen(seed);
    return `seed ${seed}\n${this.#fail(seed, [`error: ${how}`])}`;
  }

  #seen(seed: number): void {
    this.#first = Math.min(this.#first, seed);
    this.#last = Math.max(this.#last, seed);
    this.#count++;
  }

  #fail(seed: number, violations: readonly string[]): string {
    const only = this.#faults.length === 0 ? '' : ` --faults ${this.#faults.join(',')}`;
    const replay = `npm run simulate -- --seed ${seed}${only} --verbose`;
    this.#failed.push({ seed, replay, violations });
    this.#failed.sort((a, b) => a.seed - b.seed);
    return `${violations.map((text) => `  BROKEN ${text}\n`).join('')}  replay: ${replay}\n`;
  }

  json(): SummaryJson {
    return {
      seeds: { first: this.#first, last: this.#last, count: this.#count },
      virtualHours: rounded(this.#virtualMs / 3_600_000, 1),
      tenancies: this.#tenancies,
      cpuSeconds: rounded(this.#cpuSeconds, 1),
      tenanciesPerCpuSecond: rounded(this.#tenancies / Math.max(this.#cpuSeconds, 0.001), 1),
      faults: Object.fromEntries([...this.#strikes].sort(([a], [b]) => (a < b ? -1 : 1))),
      violations: this.#failed.reduce((sum, { violations }) => sum + violations.length, 0),
      failed: this.#failed,
    };
  }

  text(): string {
    const sum = this.json();
    const faults = Object.entries(sum.faults).map(([kind, count]) => `  ${kind.padEnd(32)} ${count}\n`);
    return [
      `\n${sum.seeds.count} seeds (${sum.seeds.first} to ${sum.seeds.last}), ${sum.virtualHours} h of virtual time, ${sum.tenancies} node-tenancies\n`,
      `${sum.cpuSeconds} s of CPU, ${sum.tenanciesPerCpuSecond} node-tenancies per second of CPU\n`,
      `faults:\n${faults.join('')}`,
      sum.failed.length === 0
        ? 'no rule was broken\n'
        : `${sum.violations} violations in ${sum.failed.length} seeds: ${sum.failed.map(({ seed }) => seed).join(' ')}\n`,
    ].join('');
  }
}
