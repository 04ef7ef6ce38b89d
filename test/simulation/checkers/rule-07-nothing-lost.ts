/**
 * Rule 7, nothing is lost: at rest, everything that runs or stands on a machine is accounted for: its owner lists it, or the node shows
 * a conflict for a person to decide.
 */
import { parseHostlist } from '../../../controller/api/hostlist.ts';
import type { Checker, Report } from './checker.ts';

const hostsOf = (text: string | undefined): string[] => (text ? parseHostlist(text) : []);

export function nothingLost(report: Report): Checker {
  return {
    rule: 7,
    atRest(truth) {
      for (const machine of truth.machines.values()) {
        const { name, data, broken } = machine;
        const node = truth.nodes.get(name);
        if (broken !== undefined) continue;
        if (node === undefined) {
          report(7, `${name} has no PhysicalNode`);
          continue;
        }
        const { state = '', message = '' } = node.status ?? {};
        const shown = state === 'Quarantined' || state === 'Orphaned';
        if (shown && message === '') report(7, `${name} is ${state} and does not say why`);
        if (data === undefined || shown) continue;
        const owner = truth.allocations.get(data.owner);
        const { status } = owner?.object ?? {};
        const listed = [...hostsOf(status?.nodes), ...hostsOf(status?.replaced)];
        for (const { nodes } of status?.ending ?? []) listed.push(...hostsOf(nodes));
        if (owner === undefined || owner.gone || !listed.includes(name)) {
          report(7, `${name} holds data of ${truth.nameOf(data.owner)}, which does not list it, and is ${state}`);
        }
      }
    },
  };
}
