/**
 * Progress for people: a table that is redrawn in place on a terminal, a line for each change anywhere else.
 *
 * Invariants:
 * 1. Nothing that came from git, the API or an agent reaches the terminal with control characters in it.
 * 2. Without a terminal, what has not changed is not said again, and one allocation gets at most one line a second.
 */
import { oneLine } from '../gitops/problems.ts';
import type { Clock } from '../runtime/clock.ts';
import type { AllocationView } from './settled.ts';

export interface Picture {
  readonly agents: { readonly connected: number; readonly known: number };
  /** Number of nodes by state. */
  readonly nodes: ReadonlyMap<string, number>;
  /** Of the repository: the commit and the result of the newest pass. */
  readonly repository: string;
  readonly allocations: readonly AllocationView[];
}

export interface Output {
  write(text: string): void;
  readonly isTTY?: boolean;
  readonly columns?: number;
}

const lineEveryMs = 1_000;
const nodesEveryMs = 3_000;

const thousands = (value: number): string => value.toLocaleString('en-US');

function nodesText(nodes: ReadonlyMap<string, number>): string {
  const total = [...nodes.values()].reduce((sum, count) => sum + count, 0);
  const states = [...nodes].sort(([, a], [, b]) => b - a).map(([state, count]) => `${thousands(count)} ${state}`);
  return total === 0 ? 'no nodes yet' : `${thousands(total)} nodes: ${states.join(', ')}`;
}

const percent = (copied: number | undefined): string => (copied === undefined ? '-' : `${Math.floor(copied * 100)} %`);

function sentence(view: AllocationView): string {
  const { key, phase, wanted, committed, ready, installed, devirtualized, failed, copied } = view;
  const parts = [`${committed} of ${wanted} nodes`, `${ready} ready`, `${installed} installed`];
  if (devirtualized !== undefined) parts.push(`${devirtualized} bare metal`);
  if (failed > 0) parts.push(`${failed} failed`);
  if (copied !== undefined && copied < 1) parts.push(`${percent(copied)} copied`);
  return `${key}: ${phase}: ${parts.join(', ')}`;
}

const header = ['ALLOCATION', 'PHASE', 'NODES', 'READY', 'INSTALLED', 'BARE METAL', 'COPIED', 'FAILED'];

function row(view: AllocationView): string[] {
  const { key, phase, wanted, committed, ready, installed, devirtualized, failed, copied } = view;
  const counts = [`${committed}/${wanted}`, ready, installed, devirtualized ?? 'never', percent(copied), failed];
  return [key, phase, ...counts.map(String)];
}

/** Columns as wide as their widest cell; names to the left, numbers to the right. */
function table(rows: readonly (readonly string[])[]): string[] {
  const widths = header.map((_, column) => Math.max(...rows.map((cells) => cells[column]?.length ?? 0)));
  return rows.map((cells) =>
    cells
      .map((cell, column) => (column < 2 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0)))
      .join('  '),
  );
}

export class Progress {
  readonly #output: Output;
  readonly #clock: Clock;
  readonly #startedAt: number;
  readonly #said = new Map<string, { text: string; at: number }>();
  #drawnLines = 0;

  constructor(output: Output, clock: Clock, startedAt: number) {
    this.#output = output;
    this.#clock = clock;
    this.#startedAt = startedAt;
  }

  get seconds(): string {
    return ((this.#clock.monotonic() - this.#startedAt) / 1000).toFixed(1);
  }

  /** A line that stays. */
  note(text: string): void {
    this.#erase();
    this.#output.write(`${oneLine(text)}\n`);
  }

  /** The same, with the seconds since the start. */
  event(text: string): void {
    this.note(`${this.seconds.padStart(6)} s  ${text}`);
  }

  show(picture: Picture): void {
    if (this.#output.isTTY === true) this.#draw(picture);
    else this.#say(picture);
  }

  #erase(): void {
    if (this.#drawnLines > 0) this.#output.write(`\u001b[${this.#drawnLines}A\u001b[J`);
    this.#drawnLines = 0;
  }

  #draw({ agents, nodes, repository, allocations }: Picture): void {
    const width = this.#output.columns || 80;
    const lines = [
      `${this.seconds} s · ${agents.connected} of ${agents.known} agents · git ${repository}`,
      nodesText(nodes),
      '',
      ...table([header, ...allocations.map(row)]),
    ];
    // A line that wraps would take two, and the next erasing one too few.
    const text = lines.map((line) => `${oneLine(line).slice(0, width - 1)}\n`).join('');
    this.#erase();
    this.#output.write(text);
    this.#drawnLines = lines.length;
  }

  #once(key: string, text: string, everyMs: number): void {
    const now = this.#clock.monotonic();
    const said = this.#said.get(key);
    if (said !== undefined && (said.text === text || now - said.at < everyMs)) return;
    this.#said.set(key, { text, at: now });
    this.event(text);
  }

  #say({ agents, nodes, allocations }: Picture): void {
    if (agents.known > 0)
      this.#once('agents', `${agents.connected} of ${agents.known} agents are connected`, nodesEveryMs);
    if (nodes.size > 0) this.#once('nodes', nodesText(nodes), nodesEveryMs);
    for (const view of allocations) this.#once(view.key, sentence(view), lineEveryMs);
  }
}
