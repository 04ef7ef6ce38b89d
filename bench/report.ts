/**
 * The benchmark's result: its shape as JSON, and the table for people.
 */
import { type ProcessName, processNames } from './site.ts';
import type { Writes } from './writes.ts';

export interface Cost {
  readonly cpuSeconds: number;
  /** The most since the process started, not of this step alone. */
  readonly peakMiB: number;
}

export interface Step {
  /** For people, for example `8812 nodes, there and back`. */
  readonly name: string;
  readonly nodes: number;
  /** Times it was done; the numbers are medians then, `writes` those of the last time. */
  readonly repeats: number;
  /** From the commit (the first step: from the start of the server) until every node is in the state. */
  readonly seconds: Readonly<Record<string, number>>;
  /** Of the operator to nodes, divided by the nodes. */
  readonly nodeWritesPerNode: number;
  /** Of the operator to anything but its Lease, divided by the nodes. */
  readonly writesPerNode: number;
  readonly writes: Writes;
  readonly costs: Readonly<Record<ProcessName, Cost>>;
}

export interface Result {
  readonly racks: number;
  readonly nodesPerRack: number;
  readonly node: string;
  readonly cpus: string;
  readonly cores: number;
  readonly steps: readonly Step[];
  /** Why it did not run to its end. */
  readonly failure?: string;
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const [low = 0, high = low] = sorted.length % 2 === 1 ? [sorted[middle]] : sorted.slice(middle - 1, middle + 1);
  return (low + high) / 2;
}

/** One step of the repeats of it. */
export function medians(repeats: readonly Step[]): Step {
  const last = repeats.at(-1);
  if (last === undefined) throw new Error('nothing was repeated');
  const of = (value: (step: Step) => number): number => median(repeats.map(value));
  const states = Object.keys(last.seconds);
  return {
    ...last,
    repeats: repeats.length,
    seconds: Object.fromEntries(states.map((state) => [state, of((step) => step.seconds[state] ?? 0)])),
    nodeWritesPerNode: of((step) => step.nodeWritesPerNode),
    writesPerNode: of((step) => step.writesPerNode),
    costs: byProcess((name) => ({
      cpuSeconds: of((step) => step.costs[name].cpuSeconds),
      peakMiB: last.costs[name].peakMiB,
    })),
  };
}

export function byProcess<T>(value: (name: ProcessName) => T): Record<ProcessName, T> {
  return { server: value('server'), operator: value('operator'), agents: value('agents') };
}

const number = (value: number, digits = 1): string => value.toFixed(digits);

/** A Markdown table, so that it can be pasted where results are kept. */
export function table({ steps, racks, nodesPerRack, cpus, cores, node }: Result): string {
  const head = ['Step', 'Runs', 'Seconds', 'Node writes a node', 'All writes a node'];
  head.push(...processNames.map((name) => `CPU s ${name}`), ...processNames.map((name) => `Peak MiB ${name}`));
  const rows = steps.map((step) => [
    step.name,
    String(step.repeats),
    Object.entries(step.seconds)
      .map(([state, seconds]) => `${state} ${number(seconds)}`)
      .join(', '),
    number(step.nodeWritesPerNode, 2),
    number(step.writesPerNode, 2),
    ...processNames.map((name) => number(step.costs[name].cpuSeconds)),
    ...processNames.map((name) => number(step.costs[name].peakMiB, 0)),
  ]);
  const widths = head.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)));
  const show = (row: readonly string[]): string =>
    `| ${row.map((text, column) => text.padEnd(widths[column] ?? 0)).join(' | ')} |`;
  const rule = `|${widths.map((width) => '-'.repeat(width + 2)).join('|')}|`;
  const about = `${racks * nodesPerRack} nodes in ${racks} racks of ${nodesPerRack}, all simulated delays 0; node ${node}, ${cores} x ${cpus}.`;
  return [about, '', show(head), rule, ...rows.map(show), ''].join('\n');
}
