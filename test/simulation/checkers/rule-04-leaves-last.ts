/**
 * Rule 4, the VMM leaves last: it leaves only with every block local and flushed, the export closed, the boot order on the disk, the data
 * ports isolated, and the commit on record on both sides; then the control port is closed, and nothing is imaged under that epoch again.
 *
 * Where a fault moved a port, what the agent could read of it when it told the hypervisor to leave counts.
 */
import type { SimMachine } from '../../../agent/drivers/simulated/machine.ts';
import { physicalNodes } from '../../../controller/api/meta.ts';
import type { PhysicalNode } from '../../../controller/api/types.generated.ts';
import { isOwnDomain } from '../ownership.ts';
import type { Checker, Report } from './checker.ts';

interface Standing {
  readonly local: boolean;
  readonly flushed: boolean;
  readonly exported: unknown;
  readonly order: unknown;
}

/** As the event says it; else from the machine itself. */
function standing(detail: Readonly<Record<string, unknown>>, machine: SimMachine | undefined): Standing {
  const map = machine?.disks.find(({ name }) => name === machine.running?.disk)?.map;
  const [local, total] = [Number(detail.localBytes ?? map?.localBytes), Number(detail.totalBytes ?? map?.totalBytes)];
  return {
    local: total > 0 && local >= total,
    flushed: detail.flushed !== false,
    exported: detail.exported ?? machine?.exported,
    // A BMC that shows another order than is in force deceives everybody: what it showed counts.
    order: detail.orderShown ?? detail.order ?? machine?.order,
  };
}

export function leavesLast(report: Report): Checker {
  /** Commits on record, as `node epoch`. */
  const committed = new Set<string>();
  const logged = new Set<string>();
  /** Machines whose hypervisor was told to leave, and whether the tenant turned the boot order since: nobody can have seen that. */
  const turnedSince = new Map<string, boolean>();
  return {
    rule: 4,
    written({ kind, object }) {
      if (kind !== physicalNodes.kind) return;
      const { metadata, status } = object as PhysicalNode;
      if (status?.commitSent !== undefined) committed.add(`${metadata.name} ${status.commitSent.epoch}`);
    },
    logged(row, machine) {
      if (row.commitSent) logged.add(`${machine.name} ${row.epoch}`);
    },
    machine({ event, detail }, machine, truth) {
      if (event === 'imaged' && machine.devirtualizedEpoch === Number(detail.epoch)) {
        report(4, `${machine.name} is imaged again under epoch ${detail.epoch}, under which its hypervisor left`);
      }
      if (event === 'order' && detail.by === 'tenant' && turnedSince.has(machine.name))
        turnedSince.set(machine.name, true);
      if (event !== 'devirtualized') return;
      const isTurned = turnedSince.get(machine.name) === true;
      turnedSince.delete(machine.name);
      const say = (what: string): void => report(4, `${machine.name}: the hypervisor leaves, and ${what}`);
      const { local, flushed, exported, order } = standing(detail, truth.ground.machine(machine.name));
      if (!local) say('not every block is local');
      if (!flushed) say('the disk has not flushed');
      if (exported !== 'Closed') say('the image export is open');
      if (order !== 'Disk' && !isTurned) say(`the boot order is ${order}`);
      const key = `${machine.name} ${detail.epoch}`;
      if (!committed.has(key)) say('no commit stands on the PhysicalNode');
      if (!logged.has(key)) say("no commit stands in the agent's log");
      for (const [port, domain] of machine.domains) {
        if (port === 'mgmt0' || machine.moved.has(port)) continue;
        if (!isOwnDomain(truth, machine.guest?.owner, domain)) say(`its port ${port} is in ${domain}`);
      }
    },
    acted({ command }, { name, guest, data }, truth) {
      if (command !== 'vmm.devirtualize') return;
      turnedSince.set(name, false);
      const owner = guest?.owner ?? data?.owner;
      for (const { name: port, role, state, domain } of truth.ground.shownPorts(name)) {
        if (role !== 'Data' || (state === 'Ready' && isOwnDomain(truth, owner, domain))) continue;
        report(4, `${name}: the hypervisor is told to leave while the switch shows port ${port} ${state} in ${domain}`);
      }
    },
    atRest(truth) {
      for (const machine of truth.machines.values()) {
        const { guest, broken, offUntrue, orderUntrue, name } = machine;
        if (guest === undefined || guest.throughVmm || broken !== undefined || offUntrue || orderUntrue) continue;
        const control = machine.domains.get('mgmt0') ?? 'provisioning';
        if (control !== 'closed') report(4, `${name} runs without a hypervisor, and its control port is in ${control}`);
      }
    },
  };
}
