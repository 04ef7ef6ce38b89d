/**
 * The resources of the lab's Redfish service, as JSON: pure, from what is known about the machine.
 *
 * Invariants:
 * 1. Every resource has `@odata.id`, `@odata.type`, `Id` and `Name`; every collection `Members` and `Members@odata.count`.
 * 2. A resource that another one links to exists.
 */
import type { BmcHardware, BootOverride } from './machine.ts';

export type Json = Record<string, unknown>;

export const root = '/redfish/v1';
export const systemPath = `${root}/Systems/1`;
export const resetPath = `${systemPath}/Actions/ComputerSystem.Reset`;
export const sessionsPath = `${root}/SessionService/Sessions`;
export const tasksPath = `${root}/TaskService/Tasks`;

export const resetTypes = [
  'On',
  'ForceOff',
  'ForceOn',
  'GracefulShutdown',
  'ForceRestart',
  'PowerCycle',
  'PushPowerButton',
] as const;
export type ResetType = (typeof resetTypes)[number];

export const overrideTargets = ({ bootsByHttp = false }: BmcHardware): readonly BootOverride['target'][] => [
  ...(['None', 'Pxe', 'Hdd'] as const),
  ...(bootsByHttp ? (['UefiHttp'] as const) : []),
];
export const overrideKinds = ['Disabled', 'Once', 'Continuous'] as const;

export interface SystemState {
  readonly power: 'On' | 'Off' | 'PoweringOn' | 'PoweringOff';
  readonly override: BootOverride;
}

export interface TaskState {
  readonly id: string;
  readonly state: 'Running' | 'Completed' | 'Exception' | 'Cancelled';
  readonly message?: string;
}

const link = (path: string): Json => ({ '@odata.id': path });
const health = { State: 'Enabled', Health: 'OK' };

function resource(path: string, type: string, name: string, rest: Json = {}): Json {
  const [schema = ''] = type.split('.');
  return {
    '@odata.id': path,
    '@odata.type': `#${type}.${schema}`,
    Id: path.split('/').at(-1) ?? '',
    Name: name,
    ...rest,
  };
}

export function collection(path: string, schema: string, name: string, members: readonly string[]): Json {
  return {
    '@odata.id': path,
    '@odata.type': `#${schema}.${schema}`,
    Name: name,
    'Members@odata.count': members.length,
    Members: members.map(link),
  };
}

function serviceRoot(hardware: BmcHardware): Json {
  return resource(root, 'ServiceRoot.v1_15_0', 'Root Service', {
    Id: 'RootService',
    RedfishVersion: '1.17.0',
    UUID: hardware.systemUuid,
    Product: 'Lab BMC',
    Systems: link(`${root}/Systems`),
    Chassis: link(`${root}/Chassis`),
    Managers: link(`${root}/Managers`),
    SessionService: link(`${root}/SessionService`),
    Tasks: link(`${root}/TaskService`),
    Registries: link(`${root}/Registries`),
    Links: { Sessions: link(sessionsPath) },
  });
}

function system(hardware: BmcHardware, { power, override }: SystemState): Json {
  return resource(systemPath, 'ComputerSystem.v1_20_0', hardware.name, {
    SystemType: 'Physical',
    Manufacturer: 'Lab',
    Model: 'QEMU q35',
    UUID: hardware.systemUuid,
    HostName: hardware.name,
    PowerState: power,
    Status: health,
    ProcessorSummary: { Count: 1, CoreCount: hardware.cores, Model: hardware.architecture, Status: health },
    MemorySummary: { TotalSystemMemoryGiB: hardware.memoryBytes / 2 ** 30, Status: health },
    Processors: link(`${systemPath}/Processors`),
    Memory: link(`${systemPath}/Memory`),
    Storage: link(`${systemPath}/Storage`),
    EthernetInterfaces: link(`${systemPath}/EthernetInterfaces`),
    Boot: {
      BootSourceOverrideTarget: override.target,
      'BootSourceOverrideTarget@Redfish.AllowableValues': overrideTargets(hardware),
      BootSourceOverrideEnabled: override.enabled,
      'BootSourceOverrideEnabled@Redfish.AllowableValues': overrideKinds,
      BootSourceOverrideMode: 'Legacy',
    },
    Links: { Chassis: [link(`${root}/Chassis/1`)], ManagedBy: [link(`${root}/Managers/1`)] },
    Actions: {
      '#ComputerSystem.Reset': { target: resetPath, 'ResetType@Redfish.AllowableValues': resetTypes },
    },
  });
}

function parts(hardware: BmcHardware): [string, Json][] {
  const { architecture, cores, memoryBytes, disks, interfaces } = hardware;
  const storage = `${systemPath}/Storage/1`;
  const drive = (name: string): string => `${storage}/Drives/${name}`;
  const memory = `${systemPath}/Memory/1`;
  const processor = `${systemPath}/Processors/1`;
  return [
    [
      processor,
      resource(processor, 'Processor.v1_18_0', 'Processor', {
        ProcessorType: 'CPU',
        ProcessorArchitecture: architecture === 'x86_64' ? 'x86' : 'ARM',
        InstructionSet: architecture === 'x86_64' ? 'x86-64' : 'ARM-A64',
        TotalCores: cores,
        TotalThreads: cores,
        Status: health,
      }),
    ],
    [memory, resource(memory, 'Memory.v1_17_0', 'Memory', { CapacityMiB: memoryBytes / 2 ** 20, Status: health })],
    [
      storage,
      resource(storage, 'Storage.v1_15_0', 'Local disks', {
        Drives: disks.map(({ name }) => link(drive(name))),
        'Drives@odata.count': disks.length,
        StorageControllers: [],
        Status: health,
      }),
    ],
    ...disks.map(({ name, serial, sizeBytes, media }): [string, Json] => [
      drive(name),
      resource(drive(name), 'Drive.v1_17_0', name, {
        SerialNumber: serial,
        CapacityBytes: sizeBytes,
        MediaType: media === 'HDD' ? 'HDD' : 'SSD',
        Protocol: media === 'NVMe' ? 'NVMe' : 'SATA',
        Status: health,
      }),
    ]),
    ...interfaces.map(({ name, address }): [string, Json] => {
      const path = `${systemPath}/EthernetInterfaces/${name}`;
      const fields = { MACAddress: address, PermanentMACAddress: address, Status: health };
      return [path, resource(path, 'EthernetInterface.v1_9_0', name, fields)];
    }),
    [
      `${systemPath}/Processors`,
      collection(`${systemPath}/Processors`, 'ProcessorCollection', 'Processors', [processor]),
    ],
    [`${systemPath}/Memory`, collection(`${systemPath}/Memory`, 'MemoryCollection', 'Memory', [memory])],
    [`${systemPath}/Storage`, collection(`${systemPath}/Storage`, 'StorageCollection', 'Storage', [storage])],
    [
      `${systemPath}/EthernetInterfaces`,
      collection(
        `${systemPath}/EthernetInterfaces`,
        'EthernetInterfaceCollection',
        'Ethernet interfaces',
        interfaces.map(({ name }) => `${systemPath}/EthernetInterfaces/${name}`),
      ),
    ],
  ];
}

function chassisAndManager(hardware: BmcHardware, { power }: SystemState): [string, Json][] {
  const chassis = `${root}/Chassis/1`;
  const manager = `${root}/Managers/1`;
  const inUse = { Chassis: [link(chassis)], ManagerForServers: [link(systemPath)], ManagerForChassis: [link(chassis)] };
  return [
    [
      chassis,
      resource(chassis, 'Chassis.v1_23_0', hardware.name, {
        ChassisType: 'RackMount',
        PowerState: power === 'Off' ? 'Off' : 'On',
        Status: health,
        Links: { ComputerSystems: [link(systemPath)], ManagedBy: [link(manager)] },
      }),
    ],
    [
      manager,
      resource(manager, 'Manager.v1_17_0', 'BMC', {
        ManagerType: 'BMC',
        FirmwareVersion: '1.0',
        Status: health,
        Links: inUse,
      }),
    ],
  ];
}

/** Every resource that does not depend on sessions and tasks, by its path without a trailing slash. */
export function resourcesOf(hardware: BmcHardware, state: SystemState): Map<string, Json> {
  const sessionService = `${root}/SessionService`;
  const taskService = `${root}/TaskService`;
  return new Map<string, Json>([
    ['/redfish', { v1: `${root}/` }],
    [root, serviceRoot(hardware)],
    [`${root}/odata`, { '@odata.context': `${root}/$metadata`, value: odataEntries }],
    [`${root}/Systems`, collection(`${root}/Systems`, 'ComputerSystemCollection', 'Systems', [systemPath])],
    [`${root}/Chassis`, collection(`${root}/Chassis`, 'ChassisCollection', 'Chassis', [`${root}/Chassis/1`])],
    [`${root}/Managers`, collection(`${root}/Managers`, 'ManagerCollection', 'Managers', [`${root}/Managers/1`])],
    [`${root}/Registries`, collection(`${root}/Registries`, 'MessageRegistryFileCollection', 'Registries', [])],
    [systemPath, system(hardware, state)],
    ...parts(hardware),
    ...chassisAndManager(hardware, state),
    [
      sessionService,
      resource(sessionService, 'SessionService.v1_1_8', 'Session Service', {
        ServiceEnabled: true,
        SessionTimeout: 1800,
        Sessions: link(sessionsPath),
        Status: health,
      }),
    ],
    [
      taskService,
      resource(taskService, 'TaskService.v1_2_0', 'Task Service', {
        ServiceEnabled: true,
        Tasks: link(tasksPath),
        Status: health,
      }),
    ],
  ]);
}

const odataEntries = ['Systems', 'Chassis', 'Managers', 'SessionService', 'TaskService', 'Registries'].map((name) => ({
  name,
  kind: 'Singleton',
  url: `${root}/${name}`,
}));

export function sessionResource(id: string, username: string): Json {
  return resource(`${sessionsPath}/${id}`, 'Session.v1_6_0', 'Session', { UserName: username });
}

export function taskResource({ id, state, message }: TaskState): Json {
  const ended = state !== 'Running';
  return resource(`${tasksPath}/${id}`, 'Task.v1_7_0', `Task ${id}`, {
    TaskState: state,
    TaskStatus: state === 'Exception' ? 'Critical' : 'OK',
    PercentComplete: ended ? 100 : 0,
    TaskMonitor: `${root}/TaskService/TaskMonitors/${id}`,
    Messages: message === undefined ? [] : [{ MessageId: 'Base.1.13.GeneralError', Message: message }],
  });
}

/** A Redfish error body. */
export function errorBody(messageId: string, message: string): Json {
  const code = `Base.1.13.${messageId}`;
  const info = { '@odata.type': '#Message.v1_1_2.Message', MessageId: code, Message: message, Severity: 'Critical' };
  return { error: { code, message, '@Message.ExtendedInfo': [info] } };
}
