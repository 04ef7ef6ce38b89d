/**
 * Rule 10, secrets: what a tenant puts into its allocation reaches boots of that allocation alone, and nothing of it is left with the boot
 * server or in the agent's log once the node is fenced.
 */
import type { VmmPlan } from '../../../agent/drivers/port.ts';
import { sameTenant } from '../ownership.ts';
import type { Checker, Report } from './checker.ts';

export function secrets(report: Report): Checker {
  return {
    rule: 10,
    acted({ command, arguments: [plan] }, machine, truth) {
      if (command !== 'vmm.plan' || plan === undefined) return;
      const { epoch, sshKeys } = plan as VmmPlan;
      const owner = machine.epochs.get(epoch);
      // What one allocation of a name left, another of that name may take over, in the middle of its boot too.
      const own = [...truth.allocations.values()].filter(
        ({ uid }) => owner !== undefined && (uid === owner || sameTenant(truth, uid, owner)),
      );
      for (const key of sshKeys) {
        if (own.some(({ keys }) => keys.has(key))) continue;
        report(
          10,
          `${machine.name}: a boot of ${truth.nameOf(owner)} (epoch ${epoch}) is given a key that is not its own`,
        );
      }
    },
    machine({ event, detail }, machine, truth) {
      if (event === 'attested' && truth.ground.machine(machine.name)?.plan !== undefined) {
        report(
          10,
          `${machine.name}: the boot server still has what a tenant's boot was given while the node is taken back`,
        );
      }
      if ((event as string) === 'secrets' && detail.to === 'Guest') {
        report(10, `${machine.name}: a guest got what was meant for a hypervisor, by asking in another machine's name`);
      }
    },
    logged(row, { name }) {
      if (row.kind === 'Reclaim' && row.plan !== undefined) {
        report(10, `${name}: the agent's log keeps what a tenant's boot was given, in a reclaim`);
      }
    },
  };
}
