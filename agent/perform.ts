/** Asks the drivers for what a decision wants done. */
import type { Drivers } from './drivers/port.ts';
import type { Act } from './needs.ts';

export function perform({ power, fabric, images, vmm }: Drivers, node: string, act: Act): void {
  switch (act.kind) {
    case 'power':
      power.set(node, act.desired, act.token);
      break;
    case 'order':
      power.setOrder(node, act.order, act.token);
      break;
    case 'fabric':
      fabric.set(node, act.role, act.domain, act.egress, act.token);
      break;
    case 'open':
      images.open(node, act.image, act.token);
      break;
    case 'close':
      images.close(node, act.token);
      break;
    case 'serve':
      images.serve(node, act.what, act.token);
      break;
    case 'plan':
      vmm.plan(node, act.plan);
      break;
    case 'throttle':
      vmm.throttle(node, act.maxRateBytes);
      break;
    case 'notify':
      vmm.notify(node, act.message);
      break;
    case 'devirtualize':
      vmm.devirtualize(node, act.token);
      break;
    case 'attest':
      vmm.attest(node, act.nonce, act.token);
      break;
    case 'wipe':
      vmm.wipe(node, act.erase, act.token);
      break;
    case 'check':
      vmm.check(node, act.token);
      break;
  }
}
