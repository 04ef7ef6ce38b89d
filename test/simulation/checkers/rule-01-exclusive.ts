/**
 * Rule 1, exclusive: at most one allocation owns a machine at any time.
 *
 * An owner has a machine from the first instruction of its guest until the machine was given up by it (or by a person) and wiped. Nobody
 * else's instruction is accepted, no guest of anybody else starts, and no claim of anybody else is written meanwhile. Nor does an epoch
 * ever become another allocation's, as long as the agent's log or the operator's record may know of it: where a log that went back in time
 * meets a backup that was put back, nobody can know that it was given out, and nothing but what is on the machine still counts.
 */

import { physicalNodes } from '../../../controller/api/meta.ts';
import type { PhysicalNode } from '../../../controller/api/types.generated.ts';
import { sameTenant } from '../ownership.ts';
import type { Checker, Report } from './checker.ts';

export function exclusive(report: Report): Checker {
  return {
    rule: 1,
    accepted(instruction, _term, machine, truth) {
      if (instruction.verb !== 'isolate' && instruction.verb !== 'reimage') return;
      const { allocation } = instruction.args;
      const { byAgent, byOperator } = machine.forgotten;
      const isForgotten = byAgent.has(instruction.epoch) && byOperator.has(instruction.epoch);
      const named = isForgotten ? undefined : machine.epochs.get(instruction.epoch);
      if (named !== undefined && named !== allocation && !sameTenant(truth, named, allocation)) {
        report(
          1,
          `${machine.name}: epoch ${instruction.epoch} is of ${truth.nameOf(named)} and of ${truth.nameOf(allocation)}`,
        );
      }
      const owner = machine.data?.owner;
      if (owner !== undefined && owner !== allocation && !sameTenant(truth, owner, allocation)) {
        report(
          1,
          `${machine.name}: ${instruction.verb} for ${truth.nameOf(allocation)}, and ${truth.nameOf(owner)} has it`,
        );
      }
    },
    machine({ event, detail }, machine, truth) {
      if (event !== 'guest') return;
      const owner = machine.epochs.get(Number(detail.epoch));
      const before = machine.data?.owner;
      if (owner === undefined || before === undefined || owner === before || sameTenant(truth, owner, before)) return;
      report(1, `${machine.name}: a guest of ${truth.nameOf(owner)} runs, and ${truth.nameOf(before)} has the machine`);
    },
    written({ kind, object, old }, truth) {
      if (kind !== physicalNodes.kind) return;
      const node = object as PhysicalNode;
      const before = (old as PhysicalNode | undefined)?.status;
      const { claim } = node.status ?? {};
      if (claim === undefined || before?.claim === undefined || before.claim.allocation.uid === claim.allocation.uid)
        return;
      const { namespace, name } = before.claim.allocation;
      if (namespace === claim.allocation.namespace && name === claim.allocation.name) return;
      report(
        1,
        `${node.metadata.name}: claimed for ${claim.allocation.name} while ${truth.nameOf(before.claim.allocation.uid)} claims it`,
      );
    },
  };
}
