/**
 * Drivers seen through a tap: every command may be stopped (its process died) and is told to whoever judges.
 */
import type { Drivers } from '../../agent/drivers/port.ts';

export interface DriverAct {
  readonly command: string;
  readonly arguments: readonly unknown[];
  /** Of the change, where the command has one. */
  readonly token: string | undefined;
}

export interface Tap {
  readonly onChange: (listener: (node: string) => void) => void;
  /** @returns whether the command reaches the driver */
  readonly mayAct: (what: string) => boolean;
  readonly acted: (node: string, act: DriverAct) => void;
}

/** Commands by driver, and whether their last argument is a token. */
const commands: Readonly<Record<string, Readonly<Record<string, boolean>>>> = {
  power: { set: true, setOrder: true, refresh: false },
  fabric: { set: true, refresh: false },
  images: { open: true, close: true, serve: true },
  vmm: {
    plan: false,
    throttle: false,
    notify: false,
    devirtualize: true,
    attest: true,
    wipe: true,
    check: true,
    refresh: false,
  },
};

function methodsOf(driver: object): string[] {
  const names = new Set([...Object.keys(driver), ...Object.getOwnPropertyNames(Object.getPrototypeOf(driver))]);
  names.delete('constructor');
  return [...names].filter((name) => typeof Reflect.get(driver, name) === 'function');
}

function tap<T extends object>(driver: T, name: string, around: Tap): T {
  const verbs = commands[name] ?? {};
  const tapping: Record<string, unknown> = {};
  for (const verb of methodsOf(driver)) {
    const method = (Reflect.get(driver, verb) as (...args: unknown[]) => unknown).bind(driver);
    const hasToken = verbs[verb];
    tapping[verb] =
      hasToken === undefined
        ? method
        : (node: string, ...rest: unknown[]) => {
            const token = hasToken ? String(rest.at(-1)) : undefined;
            const shown = rest.filter((one) => typeof one !== 'object').join(' ');
            if (!around.mayAct(`${name}.${verb} ${node} ${shown}`)) return;
            if (verb !== 'refresh') around.acted(node, { command: `${name}.${verb}`, arguments: rest, token });
            method(node, ...rest);
          };
  }
  return tapping as T;
}

export function tapped(drivers: Drivers, around: Tap): Drivers {
  return {
    power: tap(drivers.power, 'power', around),
    fabric: tap(drivers.fabric, 'fabric', around),
    images: tap(drivers.images, 'images', around),
    vmm: tap(drivers.vmm, 'vmm', around),
    capabilities: drivers.capabilities,
    onChange: (listener) => around.onChange(listener),
    close: () => {},
  };
}
