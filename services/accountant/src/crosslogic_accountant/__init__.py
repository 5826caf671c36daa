"""The usage ledger"""
