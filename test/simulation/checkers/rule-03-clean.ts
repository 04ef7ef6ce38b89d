/**
 * Rule 3, clean before reuse: a node becomes Available only when every disk in the machine was wiped since the last boot of a tenant's
 * guest, within an attested boot; no image of somebody else goes onto a disk before.
 */
import { physicalNodes } from '../../../controller/api/meta.ts';
import type { PhysicalNode } from '../../../controller/api/types.generated.ts';
import { sameTenant } from '../ownership.ts';
import type { Checker, Report } from './checker.ts';

export function clean(report: Report): Checker {
  return {
    rule: 3,
    machine({ event, detail }, machine, truth) {
      if (event === 'wiped' && !machine.attested) {
        report(3, `${machine.name}: disk ${detail.disk} is wiped outside an attested boot`);
      }
      if (event !== 'imaged' || machine.dirty === undefined || machine.swappedUnder === detail.epoch) return;
      const owner = machine.epochs.get(Number(detail.epoch)) ?? '';
      const own =
        machine.data !== undefined && (machine.data.owner === owner || sameTenant(truth, machine.data.owner, owner));
      if (own) return;
      report(
        3,
        `${machine.name}: an image of ${truth.nameOf(owner)} goes onto a machine that is not clean: ${machine.dirty}`,
      );
    },
    written({ kind, object, old }, truth) {
      if (kind !== physicalNodes.kind) return;
      const node = object as PhysicalNode;
      const became =
        node.status?.state === 'Available' && (old as PhysicalNode | undefined)?.status?.state !== 'Available';
      if (!became) return;
      const machine = truth.machine(node.metadata.name);
      if (machine.dirty !== undefined) report(3, `${machine.name} is Available and not clean: ${machine.dirty}`);
      if (machine.guest !== undefined) report(3, `${machine.name} is Available, and a guest runs on it`);
    },
  };
}
