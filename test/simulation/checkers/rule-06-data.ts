/**
 * Rule 6: a tenant's data is never destroyed except by that tenant's own end or the update that its owner asked for; and an end is
 * decided only for a reason that stands in the owner's own spec.
 *
 * Judged at every wipe and every erasing of a disk, at every order to switch off, and at every decision that an allocation's status
 * takes on.
 */
import { parseDuration } from '../../../controller/api/duration.ts';
import { parseHostlist } from '../../../controller/api/hostlist.ts';
import { nodeAllocations } from '../../../controller/api/meta.ts';
import type { NodeAllocation } from '../../../controller/api/types.generated.ts';
import type { MachineTruth } from '../machine-truth.ts';
import { endOf, updateAsked } from '../ownership.ts';
import type { Truth } from '../truth.ts';
import type { Checker, Report } from './checker.ts';

/** Wall clocks of operator and API server may differ by as much (faults/operator.ts), and times are written in whole seconds. */
const clockToleranceMs = 42_000;

const hostsOf = (text: string | undefined): string[] => (text ? parseHostlist(text) : []);

/** What is wrong with giving up these nodes for this reason, by what the owner had asked for then. */
function wrongEnd(truth: Truth, after: NodeAllocation, reason: string, nodes: readonly string[]): string | undefined {
  const { metadata, spec, status } = after;
  const nowMs = truth.ground.clock.now() + clockToleranceMs;
  const graceMs = parseDuration(spec.reclaim.gracePeriod);
  const ran = nodes.filter((node) => {
    const { data, guest } = truth.machine(node);
    return data?.owner === metadata.uid || guest?.owner === metadata.uid;
  });
  if (reason === 'ScaledDown') {
    const kept = hostsOf(status?.nodes).length;
    return kept < spec.replicas ? `${kept} nodes are kept of ${spec.replicas} asked for` : undefined;
  }
  if (ran.length === 0) return undefined;
  if (reason === 'Released') {
    if (metadata.deletionTimestamp === undefined) return `it is not deleted, and a guest of it ran on ${ran}`;
    if (spec.deletionPolicy === 'Retain') return 'its deletionPolicy is Retain';
    const endMs = Date.parse(metadata.deletionTimestamp) + graceMs;
    return nowMs < endMs ? `its grace period lasts ${Math.round((endMs - nowMs) / 1000)} s more` : undefined;
  }
  if (reason !== 'Expired') return `nobody knows the reason ${reason}`;
  const { duration } = spec.schedule ?? {};
  const start = status?.window?.start;
  if (duration === undefined || start === undefined) return 'it has no window that could be over';
  const endMs = Date.parse(start) + parseDuration(duration) + graceMs;
  return nowMs < endMs ? `its window lasts ${Math.round((endMs - nowMs) / 1000)} s more` : undefined;
}

/** Whether its owner asked for another revision in between, which the machine was on its way to when the first one was wanted again. */
function updatedBetween(truth: Truth, machine: MachineTruth, epoch: number): boolean {
  const { data, revisions } = machine;
  if (data === undefined) return false;
  const between = [...revisions].filter(([claimed]) => claimed > data.epoch && claimed < epoch);
  return between.some(([, revision]) => revision !== data.revision && updateAsked(truth, machine, revision));
}

export function data(report: Report): Checker {
  /** Of the updates that their owner had asked for when an agent accepted them: when that was, by `node epoch revision`. */
  const begunAt = new Map<string, number>();

  /** A backup that was put back since brings an owner from before, and nobody tells the agent: it goes on. */
  function wasUnderWay(truth: Truth, { name }: MachineTruth, epoch: unknown, revision: string): boolean {
    const atMs = begunAt.get(`${name} ${epoch} ${revision}`);
    return atMs !== undefined && atMs <= truth.restoredAtMs;
  }

  return {
    rule: 6,
    accepted(instruction, _term, machine, truth) {
      if (instruction.verb !== 'reimage') return;
      const { revision } = instruction.args.environment;
      const key = `${machine.name} ${instruction.epoch} ${revision}`;
      if (begunAt.has(key) || !updateAsked(truth, machine, revision)) return;
      begunAt.set(key, truth.ground.clock.monotonic());
    },
    machine({ event, detail }, machine, truth) {
      if (machine.data === undefined || (event !== 'wiped' && event !== 'imaged')) return;
      if (endOf(truth, machine) !== undefined) return;
      const owner = truth.nameOf(machine.data.owner);
      if (event === 'wiped') {
        report(6, `${machine.name}: disk ${detail.disk} is wiped, and ${owner} never gave it up`);
        return;
      }
      const revision = String(detail.revision);
      if (machine.data.revision === revision && !updatedBetween(truth, machine, Number(detail.epoch))) {
        report(6, `${machine.name}: the disk of ${owner} is erased for the revision ${revision} that it has`);
      } else if (!updateAsked(truth, machine, revision) && !wasUnderWay(truth, machine, detail.epoch, revision)) {
        report(
          6,
          `${machine.name}: the disk of ${owner} is erased for revision ${revision}, and it never asked for that`,
        );
      }
    },
    acted({ command, arguments: [wanted], token = '' }, machine, truth) {
      if (command !== 'power.set' || (wanted !== 'Off' && wanted !== 'Shutdown')) return;
      if (machine.data === undefined || endOf(truth, machine) !== undefined) return;
      // A re-imaging of the same allocation switches off; what it puts there is judged when it does.
      if (token.includes('.reimage.')) return;
      report(
        6,
        `${machine.name}: is switched off (${wanted}), and ${truth.nameOf(machine.data.owner)} never gave it up`,
      );
    },
    written({ kind, object, old }, truth) {
      if (kind !== nodeAllocations.kind) return;
      const [after, before] = [object as NodeAllocation, old as NodeAllocation | undefined];
      if (after.status?.ending === before?.status?.ending) return;
      for (const { reason, nodes } of after.status?.ending ?? []) {
        const known = new Set(hostsOf(before?.status?.ending?.find((one) => one.reason === reason)?.nodes));
        const added = hostsOf(nodes).filter((node) => !known.has(node));
        const wrong = added.length === 0 ? undefined : wrongEnd(truth, after, reason, added);
        if (wrong !== undefined) report(6, `${after.metadata.name} gives up ${added} (${reason}), but ${wrong}`);
      }
    },
  };
}
