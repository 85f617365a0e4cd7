// The properties of fields that a dashboard may set, with the values that Grafana's panels take where it does not.
// Grafana itself keeps them with its editors, which are in no package.

import {
  applyFieldOverrides,
  DataFrame,
  displayNameOverrideProcessor,
  FieldConfigOptionsRegistry,
  FieldConfigPropertyItem,
  FieldConfigSource,
  FieldOverrideContext,
  FieldType,
  GrafanaTheme2,
  identityOverrideProcessor,
  thresholdsOverrideProcessor,
  ThresholdsMode,
  unitOverrideProcessor,
  valueMappingsOverrideProcessor,
} from '@grafana/data';

type Process = (value: unknown, context: FieldOverrideContext, settings?: unknown) => unknown;

const THRESHOLDS = {
  mode: ThresholdsMode.Absolute,
  steps: [
    { value: -Infinity, color: 'green' },
    { value: 80, color: 'red' },
  ],
};

const STANDARD: Record<string, Process> = {
  unit: unitOverrideProcessor as Process,
  min: identityOverrideProcessor,
  max: identityOverrideProcessor,
  fieldMinMax: identityOverrideProcessor,
  decimals: identityOverrideProcessor,
  displayName: displayNameOverrideProcessor as Process,
  color: identityOverrideProcessor,
  noValue: identityOverrideProcessor,
  mappings: valueMappingsOverrideProcessor as Process,
  thresholds: thresholdsOverrideProcessor as Process,
  links: identityOverrideProcessor,
};

const CUSTOM: Record<string, Record<string, unknown>> = {
  timeseries: {
    axisBorderShow: false,
    axisCenteredZero: false,
    axisColorMode: 'text',
    axisGridShow: undefined,
    axisLabel: '',
    axisPlacement: 'auto',
    axisSoftMax: undefined,
    axisSoftMin: undefined,
    axisWidth: undefined,
    barAlignment: 0,
    barMaxWidth: undefined,
    barWidthFactor: 0.6,
    drawStyle: 'line',
    fillBelowTo: undefined,
    fillOpacity: 0,
    gradientMode: 'none',
    hideFrom: { tooltip: false, viz: false, legend: false },
    insertNulls: false,
    lineColor: undefined,
    lineInterpolation: 'linear',
    lineStyle: { fill: 'solid' },
    lineWidth: 1,
    pointSize: 5,
    scaleDistribution: { type: 'linear' },
    showPoints: 'auto',
    spanNulls: false,
    stacking: { mode: 'none', group: 'A' },
    thresholdsStyle: { mode: 'off' },
    transform: undefined,
  },
  table: {
    align: 'auto',
    cellOptions: { type: 'auto' },
    displayMode: undefined,
    filterable: undefined,
    hidden: undefined,
    inspect: false,
    minWidth: undefined,
    width: undefined,
  },
};

function property(id: string, process: Process, isCustom: boolean): FieldConfigPropertyItem {
  return {
    id: isCustom ? `custom.${id}` : id,
    path: id,
    name: id,
    isCustom,
    process,
    shouldApply: (field) => !isCustom || field.type !== FieldType.time,
    editor: () => null,
    override: () => null,
  };
}

export function configured(
  type: string,
  data: DataFrame[],
  source: FieldConfigSource = { defaults: {}, overrides: [] },
  theme: GrafanaTheme2,
  replaceVariables: (text: string) => string
): { data: DataFrame[]; fieldConfig: FieldConfigSource } {
  const custom = CUSTOM[type] ?? {};
  const registry = new FieldConfigOptionsRegistry(() => [
    ...Object.entries(STANDARD).map(([id, process]) => property(id, process, false)),
    ...Object.keys(custom).map((id) => property(id, identityOverrideProcessor, true)),
  ]);
  const thresholds = source.defaults.thresholds ?? THRESHOLDS;
  const fieldConfig: FieldConfigSource = {
    defaults: {
      ...source.defaults,
      color: source.defaults.color ?? { mode: type === 'timeseries' ? 'palette-classic' : 'thresholds' },
      // JSON has no -Infinity: the first step is null there.
      thresholds: {
        ...thresholds,
        steps: thresholds.steps.map((step, index) => (index === 0 ? { ...step, value: -Infinity } : step)),
      },
      custom: { ...custom, ...source.defaults.custom },
    },
    overrides: source.overrides ?? [],
  };
  return {
    data: applyFieldOverrides({ data, fieldConfig, fieldConfigRegistry: registry, theme, timeZone: 'utc', replaceVariables }),
    fieldConfig,
  };
}
