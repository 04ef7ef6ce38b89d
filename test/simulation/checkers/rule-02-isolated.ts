/**
 * Rule 2, isolated first: no guest instruction runs before every port that it can see is isolated; only the VMM reaches provisioning.
 *
 * Judged by where the switch truly has the ports at the first instruction of every boot, and at every move of a port under a running
 * guest. What a fault moved is the fault's; that it is put back is rule 8's.
 */
import { isOwnDomain } from '../ownership.ts';
import type { Truth } from '../truth.ts';
import type { Checker, Report } from './checker.ts';

interface SeenPort {
  readonly name: string;
  readonly domain: string;
}

/** Moves of the switch that nobody of ours asked for. */
const notOurs: ReadonlySet<unknown> = new Set(['cable', 'defaults', 'late']);

/** Whoever reads the machine cannot know now that it comes up without its hypervisor, or cannot move the port. */
function blind(truth: Truth, node: string): boolean {
  const machine = truth.ground.machine(node);
  if (machine === undefined) return false;
  const { bmcHang, bmcSilent, takesBmc, vmmSilent } = machine.faults;
  const moving = machine.changes.control !== undefined && machine.changes.control.status !== 'Done';
  return (
    moving || saysOff(truth, node) || [bmcHang, bmcSilent, takesBmc, vmmSilent].some((fault) => fault !== undefined)
  );
}

/**
 * Its BMC says Off and it runs, or it was reset behind that word and boots: what the safety page says of such a machine (it may find
 * provisioning while the next boot is prepared) lasts for as long as the lie does.
 */
const saysOff = (truth: Truth, node: string): boolean => truth.ground.machine(node)?.faults.bmcLiesOff !== undefined;

export function isolated(report: Report): Checker {
  return {
    rule: 2,
    machine({ event, detail }, machine, truth) {
      if (event === 'guest') {
        const owner = machine.epochs.get(Number(detail.epoch)) ?? machine.data?.owner;
        for (const { name, domain } of (detail.ports ?? []) as readonly SeenPort[]) {
          if (isOwnDomain(truth, owner, domain) || machine.moved.has(name)) continue;
          report(2, `${machine.name}: a guest of ${truth.nameOf(owner)} starts with its port ${name} in ${domain}`);
        }
        const known = !machine.orderUntrue && !machine.moved.has('mgmt0') && !blind(truth, machine.name);
        if (detail.throughVmm !== true && detail.control === 'provisioning' && known) {
          report(2, `${machine.name}: a guest without a hypervisor starts with the control port in provisioning`);
        }
      }
      const ours = !notOurs.has(detail.cause) && detail.recordedAs === machine.name;
      if (event === 'port' && machine.guest !== undefined && ours) {
        const { owner } = machine.guest;
        const to = String(detail.to);
        const control =
          to === 'provisioning' && (machine.guest.throughVmm || machine.offUntrue || saysOff(truth, machine.name));
        if (!control && !isOwnDomain(truth, owner, to)) {
          report(
            2,
            `${machine.name}: port ${detail.port} of a running guest of ${truth.nameOf(owner)} is put into ${to}`,
          );
        }
      }
    },
  };
}
