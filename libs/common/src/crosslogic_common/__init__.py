"""What every CrossLogic service needs once"""
