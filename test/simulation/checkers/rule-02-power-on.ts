/**
 * Rule 2, isolated first, as an agent could know it: a machine is switched on into a tenant's boot only while its switch shows every data
 * port in the tenant's domain, into the trusted image only while it shows them in quarantine; and what strayed is put back.
 */
import { isOwnDomain } from '../ownership.ts';
import type { Checker, Report } from './checker.ts';

export function switchedOnIsolated(report: Report): Checker {
  return {
    rule: 2,
    acted({ command, arguments: [wanted], token = '' }, machine, truth) {
      if (command !== 'power.set' || wanted !== 'On') return;
      const [, epoch = '0', verb] = /\.(\d+)\.[A-Za-z]+\.([a-z]+)\./.exec(token) ?? [];
      const owner = machine.epochs.get(Number(epoch));
      for (const { name, role, state, domain } of truth.ground.shownPorts(machine.name)) {
        if (role !== 'Data') continue;
        const right = verb === 'attest' ? domain === 'quarantine' : isOwnDomain(truth, owner, domain);
        if (right && state === 'Ready') continue;
        report(
          2,
          `${machine.name}: is switched on (${verb}) while its switch shows port ${name} ${state} in ${domain}`,
        );
      }
    },
    atRest(truth) {
      for (const { name, guest, broken, domains, generation } of truth.machines.values()) {
        const { state = '', claim, end } = truth.nodes.get(name)?.status ?? {};
        const isHeld = state === 'Quarantined' || state === 'Orphaned';
        // Where a log was lost, nobody knows any more where the ports of what the machine runs belong.
        if (guest === undefined || broken !== undefined || (isHeld && generation > 0)) continue;
        const isKept = !isHeld && claim !== undefined && end === undefined;
        for (const [port, domain] of domains) {
          const isIsolated = isOwnDomain(truth, guest.owner, domain) && !(isKept && domain === 'quarantine');
          if (port === 'mgmt0' || isIsolated) continue;
          report(
            2,
            `${name}: nobody put port ${port} of a guest of ${truth.nameOf(guest.owner)} back, it is in ${domain}`,
          );
        }
      }
    },
  };
}
