/** The Power driver without a BMC between: for tests of the other drivers, and where a BMC's manners do not matter. */
import type { Clock } from '../../../controller/runtime/clock.ts';
import type { Change, MachineFacts, Power } from '../port.ts';
import { isFromNetwork } from './bmc/machine.ts';
import type { QemuMachine } from './machine.ts';
import { factsOf } from './shape.ts';

export function directPower(
  machines: ReadonlyMap<string, QemuMachine>,
  clock: Clock,
  changed: (node: string) => void,
): Power {
  const facts = new Map<string, MachineFacts>([...machines].map(([node, machine]) => [node, factsOf(machine.spec)]));
  const changes = new Map<string, Change>();
  const of = <Value>(values: ReadonlyMap<string, Value>, node: string): Value => {
    const value = values.get(node);
    if (value === undefined) throw new Error(`no node ${node} in this rack`);
    return value;
  };
  const tell = (node: string): void => void clock.setTimer(0, () => changed(node));
  for (const [node, machine] of machines) machine.onChange(() => tell(node));
  return {
    machine: (node) => of(facts, node),
    read(node) {
      const machine = of(machines, node);
      const stateChange = changes.get(`${node} state`);
      const orderChange = changes.get(`${node} order`);
      return {
        state: machine.power(),
        order: isFromNetwork(machine.bootOverride) ? 'Network' : 'Disk',
        ...(stateChange === undefined ? {} : { stateChange }),
        ...(orderChange === undefined ? {} : { orderChange }),
      };
    },
    set(node, desired, token) {
      const machine = of(machines, node);
      changes.set(`${node} state`, { token, status: 'Pending' });
      const work = desired === 'On' ? machine.on() : desired === 'Off' ? machine.off() : machine.shutdown();
      work
        .then(
          () => changes.set(`${node} state`, { token, status: 'Done' }),
          (error: unknown) => changes.set(`${node} state`, { token, status: 'Error', error: (error as Error).message }),
        )
        .finally(() => tell(node));
    },
    setOrder(node, order, token) {
      of(machines, node).bootOverride = { target: order === 'Network' ? 'Pxe' : 'Hdd', enabled: 'Continuous' };
      changes.set(`${node} order`, { token, status: 'Done' });
      tell(node);
    },
    refresh: tell,
  };
}
