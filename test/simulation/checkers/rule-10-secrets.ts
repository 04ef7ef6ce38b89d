/**
 * Rule 10, secrets: what a tenant puts into its allocation reaches boots of that allocation alone, and nothing of it is left with the boot
 * server or in the agent's log once the node is fenced.
 */
import type { VmmPlan } from '../../../agent/drivers/port.ts';
import type { RoomEvent } from '../../../agent/drivers/simulated/store.ts';
import type { MachineTruth } from '../machine-truth.ts';
import { sameTenant } from '../ownership.ts';
import type { Truth } from '../truth.ts';
import type { Checker, Report } from './checker.ts';

/**
 * A BMC that said Off of a guest that ran on, or that shows a boot order by which its firmware does not boot: what the safety page says of such
 * machines. Their guest finds what is there for the next boot of its own tenant, and nothing of anybody else.
 */
function isItsOwn(truth: Truth, machine: MachineTruth, { hostname, epoch }: RoomEvent['detail']): boolean {
  const [owner, runs] = [machine.epochs.get(Number(epoch)), machine.guest?.owner];
  if (
    !(machine.offUntrue || machine.orderUntrue) ||
    hostname !== machine.name ||
    owner === undefined ||
    runs === undefined
  )
    return false;
  return owner === runs || sameTenant(truth, owner, runs);
}

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
      if (event === 'secrets' && detail.to === 'Guest' && !isItsOwn(truth, machine, detail)) {
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
